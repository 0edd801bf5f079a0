"""The pruning step as registered operators, `torch.ops.streamprune.*`: schemas, shapes, and who computes it where.

`prune` returns new tensors, `prune_out` writes them into given ones. Both take a batch of streams as lists and return
its results packed one stream after the other; `Packed` names them.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

from . import reference
from .config import PruneConfig
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


_library = torch.library.Library("streamprune", "DEF")
_LISTS = ("reference", "squared_norms")  # a state must not keep those of other streams in memory
_outputs = [(f"Tensor({chr(ord('a') + i)}!)", "[]" * (n in _LISTS), n) for i, n in enumerate(Packed._fields)]
_library.define(f"prune({_INPUTS}) -> ({', '.join(f'Tensor{many} {name}' for _, many, name in _outputs)})")
_library.define(f"prune_out({_INPUTS}, {', '.join(f'{t}{many} {name}_out' for t, many, name in _outputs)}) -> ()")


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


def by_torch(x: list[torch.Tensor], held: list[Held], rule: Rule, capacity: list[int]) -> Packed:
    """The results by the specification."""
    each = [reference.prune(x[b], *held[b], rule, capacity[b]) for b in range(len(x))]
    return Packed(*map(_joined, zip(*(_flat(pruned) for pruned in each), strict=True)))


def by_triton(x: list[torch.Tensor], held: list[Held], rule: Rule, capacity: list[int], out: Packed) -> None:
    """Writes the results by the kernels. A stream without a frame takes part in no launch: its state is copied."""
    from .kernels.launch import Stream
    from .kernels.launch import prune as launch

    if any(each.shape[0] for each in x):
        with torch.cuda.device_of(x[0]):  # Triton launches on the current device
            launch([Stream(each, *h) for each, h in zip(x, held, strict=True)], rule, capacity, out)
    for b, part in enumerate(split(out, x, rule.carrier, capacity)):
        if not x[b].shape[0]:
            _copy(by_torch([x[b]], [held[b]], rule, [capacity[b]]), part, 0)


def runs_triton(device: torch.device) -> bool:
    """Whether the operators run the kernels on this device: with Triton on a GPU, or on a CPU in its interpreter."""
    return HAS_TRITON and (device.type == "cuda" or interpreting())


def interpreting() -> bool:
    """Whether Triton was told to interpret its kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "y", "yes")


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


def _joined(parts: tuple) -> Any:
    if isinstance(parts[0], list):
        return [tensor for part in parts for tensor in part]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _flat(p: reference.Pruned) -> Packed:
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


def _copy(values: Packed, out: Packed, kept: int) -> None:
    """Writes one stream's results; of its rows for tokens the first `kept`, those that were written."""
    for name, source, target in zip(Packed._fields, _tensors(values), _tensors(out), strict=True):
        rows = slice(kept if name in ("tokens", "indices") else None)
        target[rows].copy_(source[rows])


def _tensors(packed: Packed) -> list[torch.Tensor]:
    return [tensor for value in packed for tensor in (value if isinstance(value, list) else [value])]


def _arguments(args: tuple) -> tuple[list[torch.Tensor], list[Held], Rule, list[int]]:
    """The state's tensors packed, as the kernels read them."""
    x, references, norms, frames, *rule, capacity = args
    packed = [[None if each is None else each.contiguous() for each in part] for part in (references, norms)]
    return x, list(zip(*packed, frames, strict=True)), Rule(*rule), capacity


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
        _copy(values, part, int(values.cu_counts[-1]))


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
        packed = _checked_out(out, x[0], states[0], config, capacity[0])
        torch.ops.streamprune.prune_out(x, *map(list, zip(*held, strict=True)), *rule, capacity, *packed)
        return [out]
    grids = [tuple(each.shape[:3]) for each in x]
    parts = split(packed, x, rule.carrier, capacity) if len(x) > 1 else [packed]
    return [_result(part, grid, config) for part, grid in zip(parts, grids, strict=True)]


def _result(p: Packed, grid: tuple[int, ...], config: PruneConfig) -> PaddedPruneResult:
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


def _checked_out(
    out: PaddedPruneResult, x: torch.Tensor, state: StreamState | None, config: PruneConfig, capacity: int
) -> Packed:
    """The tensors of `out` as the operator takes them. Raises ValueError for other shapes, or for shared memory."""
    if not isinstance(out, PaddedPruneResult):
        raise TypeError(f"out must be a PaddedPruneResult, got {type(out).__name__}")
    like = torch.empty(x.shape, dtype=x.dtype, device="meta")
    expected = _result(empty([like], config.carrier or "none", [capacity]), tuple(x.shape[:3]), config)
    given, wanted = _named(out), _named(expected)
    if given.keys() != wanted.keys():
        raise ValueError(f"out must have carriers for config.carrier={config.carrier!r}, and none for None")
    for name, got in given.items():
        _check_out(f"out.{name}", got, wanted[name], x.device)
    states = [] if state is None else [state.reference, state.squared_norms, state.frames]
    for name, got in given.items():
        if any(_shares_memory(got, other) for other in states):
            raise ValueError(
                f"out.{name} must not share memory with state: give an out of another call, then state.copy_()"
            )
        if _shares_memory(got, x):
            raise ValueError(f"out.{name} must not share memory with x")
    held = out.state
    carriers = x.new_empty((0, x.shape[3])) if out.carriers is None else out.carriers
    return Packed(
        out.tokens,
        out.indices,
        out.keep.view(-1),
        out.counts,
        out.cu_counts,
        carriers,
        out.temporal.view(-1),
        out.spatial.view(-1),
        out.nonfinite.view(1),
        out.overflow.view(1),
        [held.reference],
        [held.squared_norms],
        held.frames.view(1),
    )


def _named(result: PaddedPruneResult) -> dict[str, torch.Tensor]:
    """The tensors of a result and its state."""
    names = [name for name in Packed._fields if name not in ("reference", "squared_norms", "frames")]
    found = {name: getattr(result, name) for name in names if getattr(result, name) is not None}
    return found | {f"state.{name}": tensor for name, tensor in result.state.state_dict().items()}


def _check_out(name: str, got: torch.Tensor, wanted: torch.Tensor, device: torch.device) -> None:
    if (got.shape, got.dtype, got.device) != (wanted.shape, wanted.dtype, device):
        raise ValueError(
            f"{name} must be {wanted.dtype} with {tuple(wanted.shape)} on {device}, got {got.dtype} with "
            f"{tuple(got.shape)} on {got.device}: give a result of the same x, config and capacity"
        )
    if not got.is_contiguous():
        raise ValueError(f"{name} must be contiguous, got strides {got.stride()}: give a result of an earlier call")


def _shares_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    return not torch.compiler.is_compiling() and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() != 0
