"""The pruning step as registered operators, `torch.ops.streamprune.*`: schemas, shapes, and who computes it where.

`prune` returns new tensors, `prune_out` writes them into given ones. Both take a batch of streams as lists and return
its results packed one stream after the other; `Packed` names them.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import torch

from . import buffers, reference
from .config import PruneConfig
from .packed import Packed, copy, empty, flat, joined, result, split
from .result import PaddedPruneResult
from .rule import Rule
from .state import StreamState

BACKENDS = ("auto", "triton", "torch")
HAS_TRITON = find_spec("triton") is not None  # whose wheels are for Linux

Held = tuple["torch.Tensor | None", "torch.Tensor | None", "torch.Tensor | None"]  # a StreamState, or nothing

_INPUTS = (
    "Tensor[] x, Tensor?[] reference, Tensor?[] squared_norms, Tensor?[] frames, Tensor? mask, str mask_kind, "
    "float temporal_threshold, float spatial_threshold, bool survivors, bool last_kept, int keyframe_interval, "
    "int keep_tokens, bool clip, int max_tokens, str carrier, SymInt[] capacity"
)

_library = torch.library.Library("streamprune", "DEF")
_LISTS = ("reference", "squared_norms")  # a state must not keep those of other streams in memory
_outputs = [(f"Tensor({chr(ord('a') + i)}!)", "[]" * (n in _LISTS), n) for i, n in enumerate(Packed._fields)]
_library.define(f"prune({_INPUTS}) -> ({', '.join(f'Tensor{many} {name}' for _, many, name in _outputs)})")
_library.define(f"prune_out({_INPUTS}, {', '.join(f'{t}{many} {name}_out' for t, many, name in _outputs)}) -> ()")


def by_torch(x: list[torch.Tensor], held: list[Held], rule: Rule, capacity: list[int]) -> Packed:
    """The results by the specification."""
    each = [reference.prune(x[b], *held[b], rule, capacity[b]) for b in range(len(x))]
    return Packed(*map(joined, zip(*(flat(pruned) for pruned in each), strict=True)))


def by_triton(x: list[torch.Tensor], held: list[Held], rule: Rule, capacity: list[int], out: Packed) -> None:
    """Writes the results by the kernels. A stream without a frame takes part in no launch: its state is copied."""
    from .kernels.launch import Stream
    from .kernels.launch import prune as launch

    if any(each.shape[0] for each in x):
        with torch.cuda.device_of(x[0]):  # Triton launches on the current device
            launch([Stream(each, *h) for each, h in zip(x, held, strict=True)], rule, capacity, out)
    without = [b for b, each in enumerate(x) if not each.shape[0]]
    parts = split(out, x, rule.carrier, capacity) if without else []
    for b in without:
        copy(by_torch([x[b]], [held[b]], rule, [capacity[b]]), parts[b], 0)


def runs_triton(device: torch.device) -> bool:
    """Whether the operators run the kernels on this device: with Triton on a GPU, or on a CPU in its interpreter."""
    return HAS_TRITON and (device.type == "cuda" or interpreting())


def interpreting() -> bool:
    """Whether Triton was told to interpret its kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "y", "yes")


def _arguments(args: tuple) -> tuple[list[torch.Tensor], list[Held], Rule, list[int]]:
    """An operator's inputs by stream."""
    x, references, norms, frames, *rule, capacity = args
    return x, list(zip(references, norms, frames, strict=True)), Rule(*rule), capacity


def _prune(*args: Any) -> tuple:
    x, held, rule, capacity = _arguments(args)
    if not runs_triton(x[0].device):
        return tuple(by_torch(x, held, rule, capacity))
    out = empty(x, rule.carrier, capacity)
    by_triton(x, held, rule, capacity, out)
    return tuple(out)


def _prune_out(*args: Any) -> None:
    x, held, rule, capacity = _arguments(args[: -len(Packed._fields)])
    out = Packed(*args[-len(Packed._fields) :])
    if runs_triton(x[0].device):
        by_triton(x, held, rule, capacity, out)
        return
    for b, part in enumerate(split(out, x, rule.carrier, capacity)):
        values = by_torch([x[b]], [held[b]], rule, [capacity[b]])
        copy(values, part, int(values.cu_counts[-1]))


# for every device: `runs_triton` tells which of them the kernels are for
_library.impl("prune", _prune, "CompositeExplicitAutograd")
_library.impl("prune_out", _prune_out, "CompositeExplicitAutograd")


@torch.library.register_fake("streamprune::prune", lib=_library)
def _fake_prune(*args: Any) -> tuple:
    x, _, rule, capacity = _arguments(args)
    return tuple(empty(x, rule.carrier, capacity))


@torch.library.register_fake("streamprune::prune_out", lib=_library)
def _fake_prune_out(*args: Any) -> None:
    return None


def check_backend(backend: object) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")


def run(
    x: list[torch.Tensor],
    states: list[StreamState | None],
    config: PruneConfig,
    capacity: list[int],
    backend: str,
    out: PaddedPruneResult | None = None,
) -> list[PaddedPruneResult]:
    """The results of checked inputs by the chosen backend."""
    check_backend(backend)
    device = x[0].device
    if backend == "triton" and not HAS_TRITON:
        raise ValueError('backend="triton" needs Triton, which is not installed: pip install triton, or backend="auto"')
    if backend == "triton" and not runs_triton(device):
        raise ValueError(
            f'backend="triton" needs x on a GPU, got {device}: move x, use backend="auto", or set TRITON_INTERPRET=1 '
            "before Python starts"
        )
    rule = Rule.of(config, device)
    held: list[Held] = [(None, None, None) if s is None else (s.reference, s.squared_norms, s.frames) for s in states]
    if backend == "torch":
        packed = by_torch(x, held, rule, capacity)
    elif out is None:
        packed = Packed(*torch.ops.streamprune.prune(x, *map(list, zip(*held, strict=True)), *rule, capacity))
    else:
        packed = buffers.checked(out, x[0], states[0], config, capacity[0])
        torch.ops.streamprune.prune_out(x, *map(list, zip(*held, strict=True)), *rule, capacity, *packed)
        return [out]
    grids = [tuple(each.shape[:3]) for each in x]
    parts = split(packed, x, rule.carrier, capacity) if len(x) > 1 else [packed]
    return [result(part, grid, config) for part, grid in zip(parts, grids, strict=True)]
