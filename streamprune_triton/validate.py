"""Checks of what a caller hands over, all of them before anything is launched or any state is changed."""

from __future__ import annotations

from numbers import Integral

import torch

from .config import PruneConfig
from .state import DTYPES, StreamState


def check_features(x: object, name: str = "x") -> torch.Tensor:
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a tensor (T, H, W, D), got {type(x).__name__}{as_tensor(x, name)}")
    if x.is_nested:  # whose shape cannot be asked for
        raise TypeError(f"{name} must be a dense tensor, got a nested one: give list({name}.unbind())")
    if x.ndim != 4:
        raise ValueError(f"{name} must have shape (T, H, W, D), got {tuple(x.shape)}: reshape it to its grid")
    if x.dtype not in DTYPES:
        raise TypeError(f"{name} must be float32, bfloat16 or float16, got {x.dtype}: convert it with {name}.float()")
    if x.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {x.layout}: use {name}.to_dense()")
    if 0 in x.shape[1:]:
        raise ValueError(f"{name} must have H, W and D of at least 1, got shape {tuple(x.shape)}")
    return x


def as_tensor(x: object, name: str) -> str:
    """What makes a tensor of an array, for messages."""
    return f": give torch.as_tensor({name})" if hasattr(x, "__array__") else ""


def check_batch(xs: list[torch.Tensor]) -> None:
    for b, x in enumerate(xs):
        check_features(x, f"x[{b}]" if len(xs) > 1 else "x")
        for what, first, this in (
            ("device", xs[0].device, x.device),
            ("dtype", xs[0].dtype, x.dtype),
            ("D", xs[0].shape[-1], x.shape[-1]),
        ):
            if first != this:
                raise ValueError(f"x must have one {what} throughout: x[0] has {first}, x[{b}] has {this}")


def check_state(state: object, x: torch.Tensor, number: str = "") -> None:
    """`number` is that of a stream among several, as in "[2]"."""
    if state is None:
        return
    if not isinstance(state, StreamState):
        raise TypeError(f"state{number} must be a StreamState or None, got {type(state).__name__}")
    state.check(f"state{number}")
    held = state.reference
    for what, had, got in (
        ("grid (H, W)", tuple(held.shape[:2]), tuple(x.shape[1:3])),
        ("D", held.shape[-1], x.shape[-1]),
        ("dtype", held.dtype, x.dtype),
        ("device", held.device, x.device),
    ):
        if had != got:
            raise ValueError(
                f"x{number} must keep the stream's {what}: the state has {had}, x has {got}; use a new state"
            )


def check_config(config: object, xs: list[torch.Tensor]) -> None:
    if not isinstance(config, PruneConfig):
        raise TypeError(f"config must be a PruneConfig, got {type(config).__name__}")
    if isinstance(config.mask, torch.Tensor):
        for b, x in enumerate(xs):
            grid, got = tuple(x.shape[1:3]), tuple(config.mask.shape)
            if got != grid:
                raise ValueError(f"mask must have the grid's shape {grid}{f' in x[{b}]' * (len(xs) > 1)}, got {got}")


def count(name: str, value: object, least: int) -> int:
    """An integer, NumPy's included, of at least `least`. Raises TypeError or ValueError naming it."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)
