"""Results of a batch of streams as the operators return them: each field of all streams in one tensor."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .config import PruneConfig
from .reference import Pruned
from .result import PaddedPruneResult
from .state import StreamState


class Packed(NamedTuple):
    """Results of B streams: N tokens, F frames and C rows of capacity, summed over them; states one by one."""

    tokens: torch.Tensor  # (C, D)
    indices: torch.Tensor  # (C,) int64
    keep: torch.Tensor  # (N,) bool
    counts: torch.Tensor  # (F,) int32
    cu_counts: torch.Tensor  # (F + B,) int32
    carriers: torch.Tensor  # (F, D), (0, D) for carrier "none"
    temporal: torch.Tensor  # (N,) float32
    spatial: torch.Tensor  # (N,) float32
    nonfinite: torch.Tensor  # (B,) int64
    overflow: torch.Tensor  # (B,) bool
    reference: list[torch.Tensor]  # B of (H, W, D)
    squared_norms: list[torch.Tensor]  # B of (H, W) float32
    frames: torch.Tensor  # (B,) int64


def empty(x: list[torch.Tensor], carrier: str, capacity: list[int]) -> Packed:
    """Results without values: their shapes depend on no data."""
    new, d, int32, int64 = x[0].new_empty, x[0].shape[3], torch.int32, torch.int64
    frames = sum(s.shape[0] for s in x)
    tokens = sum(s.shape[0] * s.shape[1] * s.shape[2] for s in x)
    rows, streams = sum(capacity), len(x)
    return Packed(
        new((rows, d)),
        new((rows,), dtype=int64),
        new((tokens,), dtype=torch.bool),
        new((frames,), dtype=int32),
        new((frames + streams,), dtype=int32),
        new((0 if carrier == "none" else frames, d)),
        new((tokens,), dtype=torch.float32),
        new((tokens,), dtype=torch.float32),
        new((streams,), dtype=int64),
        new((streams,), dtype=torch.bool),
        [new(s.shape[1:]) for s in x],
        [new(s.shape[1:3], dtype=torch.float32) for s in x],
        new((streams,), dtype=int64),
    )


def split(out: Packed, x: list[torch.Tensor], carrier: str, capacity: list[int]) -> list[Packed]:
    """Views of each stream's share of packed results."""
    t, area = [s.shape[0] for s in x], [s.shape[1] * s.shape[2] for s in x]
    tokens, frames, one = [n * a for n, a in zip(t, area, strict=True)], t, [1] * len(x)
    carriers = [0] * len(x) if carrier == "none" else t
    cu = [n + 1 for n in t]
    sizes = (capacity, capacity, tokens, frames, cu, carriers, tokens, tokens, one, one, None, None, one)
    shares: list[Any] = []
    values: Any
    for values, each in zip(out, sizes, strict=True):
        shares.append([[v] for v in values] if isinstance(values, list) else values.split(each))
    return [Packed(*p) for p in zip(*shares, strict=True)]


def joined(parts: tuple) -> Any:
    """One field of several streams, one behind the other."""
    if isinstance(parts[0], list):
        return [tensor for part in parts for tensor in part]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def flat(p: Pruned) -> Packed:
    """One stream's results by the specification."""
    return Packed(
        *p[:2],
        p.keep.flatten(),
        *p[3:6],
        p.temporal.flatten(),
        p.spatial.flatten(),
        p.nonfinite.view(1),
        p.overflow.view(1),
        [p.reference],
        [p.squared_norms],
        p.frames.view(1),
    )


def copy(values: Packed, out: Packed, kept: int) -> None:
    """Writes one stream's results; of its rows for tokens the first `kept`, those that were written."""
    for name, source, target in zip(Packed._fields, _tensors(values), _tensors(out), strict=True):
        rows = slice(kept if name in ("tokens", "indices") else None)
        target[rows].copy_(source[rows])


def _tensors(packed: Packed) -> list[torch.Tensor]:
    return [tensor for value in packed for tensor in (value if isinstance(value, list) else [value])]


def result(p: Packed, grid: tuple[int, ...], config: PruneConfig) -> PaddedPruneResult:
    """One stream's results as they are handed out; `grid` is (T, H, W)."""
    t, h, w = grid
    return PaddedPruneResult(
        p.tokens,
        p.indices,
        p.keep.view(t, h, w),
        p.counts,
        p.cu_counts,
        p.carriers if config.carrier else None,
        p.temporal.view(t, h, w),
        p.spatial.view(t, h, w),
        p.nonfinite.view(()),
        p.overflow.view(()),
        StreamState(p.reference[0], p.squared_norms[0], p.frames.view(())),
    )
