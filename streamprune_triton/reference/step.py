"""The whole step of one stream: score, decide, compact."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..rule import Rule
from .decision import decide
from .scores import Scores, cat, masked_mean, score


class Pruned(NamedTuple):
    """One stream's results; tokens and indices have `capacity` rows, the first counts.sum() of them written."""

    tokens: torch.Tensor
    indices: torch.Tensor
    keep: torch.Tensor
    counts: torch.Tensor
    cu_counts: torch.Tensor
    carriers: torch.Tensor
    temporal: torch.Tensor
    spatial: torch.Tensor
    nonfinite: torch.Tensor
    overflow: torch.Tensor
    reference: torch.Tensor
    squared_norms: torch.Tensor
    frames: torch.Tensor


def prune(
    x: torch.Tensor,
    reference: torch.Tensor | None,
    squared_norms: torch.Tensor | None,
    frames: torch.Tensor | None,
    rule: Rule,
    capacity: int,
) -> Pruned:
    """Prunes the frames `x` (T, H, W, D) of one stream, given its state: score, decide, compact."""
    t, h, w, d = x.shape
    if reference is None or squared_norms is None or frames is None:
        reference = x.new_zeros(h, w, d)
        squared_norms = x.new_full((h, w), torch.nan, dtype=torch.float32)
        frames = torch.zeros((), dtype=torch.int64, device=x.device)

    step = 1 if rule.last_kept else max(t, 1)  # last_kept: each frame is decided before the next is compared
    decided, means = [], []
    room = torch.full((), capacity, dtype=torch.int64, device=x.device)
    overflow = torch.zeros((), dtype=torch.bool, device=x.device)
    for start in range(0, t, step):
        window = x[start : start + step]
        scores = score(window, reference, rule.mask_kind != "none", rule.carrier == "all")
        keep, temporal, spatial = decide(scores, squared_norms, frames + start, rule)
        rank = keep.flatten().cumsum(0).view_as(keep)
        fits = keep & (rank <= room)
        overflow = overflow | (fits != keep).any()
        room = room - fits.sum()
        reference, squared_norms = next_reference(window, fits, scores, reference, squared_norms, rule)
        decided.append((fits, temporal, spatial, scores.squared_norms.isnan()))
        means.append(scores.means)

    empty = (x.new_zeros((0, h, w), dtype=torch.bool),) + (x.new_zeros((0, h, w), dtype=torch.float32),) * 2
    keep, temporal, spatial, bad = map(cat, zip(*(decided or [(*empty, empty[0])]), strict=True))
    counts = keep.flatten(1).sum(1, dtype=torch.int32)
    tokens, indices = compact(x, keep, capacity)
    return Pruned(
        tokens,
        indices,
        keep,
        counts,
        torch.nn.functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0)),
        carriers(x, keep, ~bad, cat(means) if means else x.new_zeros((0, d)), rule.carrier),
        temporal,
        spatial,
        bad.sum(),
        overflow,
        reference.clone(memory_format=torch.contiguous_format),
        squared_norms.clone(),
        frames + t,
    )


def next_reference(
    x: torch.Tensor,
    keep: torch.Tensor,
    scores: Scores,
    reference: torch.Tensor,
    squared_norms: torch.Tensor,
    rule: Rule,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The token that the next frame is compared with at each place, and its squared norm."""
    if not rule.last_kept:
        return x[-1], scores.squared_norms[-1]
    last = keep[-1]
    return torch.where(last[..., None], x[-1], reference), torch.where(last, scores.squared_norms[-1], squared_norms)


def carriers(
    x: torch.Tensor, keep: torch.Tensor, finite: torch.Tensor, means: torch.Tensor, carrier: str
) -> torch.Tensor:
    """(T, D): one semantic carrier a frame (VideoScan, section 3.1), or (0, D) for carrier "none"."""
    if carrier == "none":
        return x.new_zeros((0, x.shape[-1]))
    if carrier == "all" or not len(x):
        return means.to(x.dtype)
    chosen = torch.where(keep.flatten(1).any(1)[:, None, None], keep, finite)
    return torch.cat([masked_mean(f, m) for f, m in zip(x.split(1), chosen.split(1), strict=True)]).to(x.dtype)


def compact(x: torch.Tensor, keep: torch.Tensor, capacity: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The kept tokens (capacity, D) and their indices into T*H*W, in raster-then-time order."""
    kept = keep.flatten().nonzero().squeeze(1)
    indices = kept.new_empty(capacity)
    indices[: len(kept)] = kept
    tokens = x.new_empty((capacity, x.shape[-1]))
    torch.index_select(x.reshape(-1, x.shape[-1]), 0, kept, out=tokens[: len(kept)])
    return tokens, indices
