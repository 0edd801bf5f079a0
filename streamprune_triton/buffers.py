"""Results that a caller hands over to be written again: `out` of `prune_padded`."""

from __future__ import annotations

import torch

from .config import PruneConfig
from .packed import Packed
from .result import PaddedPruneResult
from .state import StreamState


def checked(
    out: PaddedPruneResult, x: torch.Tensor, state: StreamState | None, config: PruneConfig, capacity: int
) -> Packed:
    """The tensors of `out` as the operator takes them. Raises ValueError for other shapes, or for shared memory."""
    if not isinstance(out, PaddedPruneResult):
        raise TypeError(f"out must be a PaddedPruneResult, got {type(out).__name__}")
    given, wanted = _named(out), _wanted(x, config, capacity)
    if given.keys() != wanted.keys():
        wants = f"{'carriers' if config.carrier else 'no carriers'} for config.carrier={config.carrier!r}"
        raise ValueError(f"out must have {wants}: give a result of the same x, config and capacity")
    read, held_at = _place(x), [] if state is None else [_place(each) for each in state.state_dict().values()]
    for name, got in given.items():
        _check_out(f"out.{name}", got, *wanted[name], x.device)
        place = _place(got)
        if place and place in held_at:
            raise ValueError(
                f"out.{name} must not share memory with state: give an out of another call, then state.copy_()"
            )
        if place and place == read:
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


def _wanted(x: torch.Tensor, config: PruneConfig, capacity: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shapes and dtypes of `_named`."""
    t, h, w, d = x.shape
    grid, carriers = (t, h, w), {"carriers": ((t, d), x.dtype)} if config.carrier else {}
    return carriers | {
        "tokens": ((capacity, d), x.dtype),
        "indices": ((capacity,), torch.int64),
        "keep": (grid, torch.bool),
        "counts": ((t,), torch.int32),
        "cu_counts": ((t + 1,), torch.int32),
        "temporal": (grid, torch.float32),
        "spatial": (grid, torch.float32),
        "nonfinite": ((), torch.int64),
        "overflow": ((), torch.bool),
        "state.reference": ((h, w, d), x.dtype),
        "state.squared_norms": ((h, w), torch.float32),
        "state.frames": ((), torch.int64),
    }


def _check_out(name: str, got: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    if (got.shape, got.dtype, got.device) != (shape, dtype, device):
        raise ValueError(
            f"{name} must be {dtype} with {shape} on {device}, got {got.dtype} with {tuple(got.shape)} on {got.device}"
            ": give a result of the same x, config and capacity"
        )
    if not got.is_contiguous():
        raise ValueError(f"{name} must be contiguous, got strides {got.stride()}: give a result of an earlier call")


def _place(tensor: torch.Tensor) -> int:
    """Where its memory begins; 0 where nothing tells."""
    return 0 if torch.compiler.is_compiling() else tensor.untyped_storage().data_ptr()
