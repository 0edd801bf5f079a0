"""Results that a caller hands over to be written again: `out` of `prune_padded`."""

from __future__ import annotations

import torch

from .config import PruneConfig
from .packed import Packed, empty, result
from .result import PaddedPruneResult
from .state import StreamState


def checked(
    out: PaddedPruneResult, x: torch.Tensor, state: StreamState | None, config: PruneConfig, capacity: int
) -> Packed:
    """The tensors of `out` as the operator takes them. Raises ValueError for other shapes, or for shared memory."""
    if not isinstance(out, PaddedPruneResult):
        raise TypeError(f"out must be a PaddedPruneResult, got {type(out).__name__}")
    like = torch.empty(x.shape, dtype=x.dtype, device="meta")
    expected = result(empty([like], config.carrier or "none", [capacity]), tuple(x.shape[:3]), config)
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
