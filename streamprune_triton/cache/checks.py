"""What a cache's methods refuse, each named by its argument, before anything is written."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .rows import Rows


def check_capacity(capacity: object) -> None:
    if capacity is None:
        return
    if isinstance(capacity, bool) or not isinstance(capacity, Integral):
        raise TypeError(f"capacity must be an integer or None, got {type(capacity).__name__}")
    if capacity < 1:
        raise ValueError(f"capacity must be at least 1 row, or None for no bound, got {capacity}")


def check_memory(device: object, dtype: object) -> torch.device | None:
    """Where and of what a cache's memory is to be. Returns the device with its number, as tensors have it."""
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype, as torch.bfloat16, or None, got {dtype!r}")
    if device is None:
        return None
    try:
        return torch.empty(0, device=device).device  # type: ignore[call-overload]
    except (AssertionError, RuntimeError, TypeError) as error:  # whatever the device's own library raises
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"device must be one that is there, as 'cpu' or 'cuda', got {device!r}: {reason}") from error


def check_room(rows: Rows, stop: int) -> None:
    if rows.capacity is not None and stop > rows.capacity:
        raise ValueError(
            f"capacity must be at least {stop} for these rows, got {rows.capacity}: drop rows first, or build the "
            "cache with more (capacity=None for no bound)"
        )


def check_states(rows: Rows, keys: torch.Tensor, values: torch.Tensor, layer: int) -> None:
    """Of new rows for one layer."""
    if not 0 <= layer < len(rows.lengths):
        raise ValueError(f"layer_idx must be in 0 .. {len(rows.lengths) - 1}, got {layer}")
    if keys.ndim != 4 or keys.shape[0] != 1:
        raise ValueError(f"key_states must have shape (1, heads, q, head_dim), one sequence, got {tuple(keys.shape)}")
    if values.shape != keys.shape:
        raise ValueError(f"value_states must have the keys' shape {tuple(keys.shape)}, got {tuple(values.shape)}")
    if torch.is_grad_enabled() and (keys.requires_grad or values.requires_grad):
        raise ValueError("key_states must not require grad, as rows are written in place: use torch.no_grad()")
    for name, states in (("key_states", keys), ("value_states", values)):
        check_kind(rows, name, states)
        device = rows.device if rows.storage is None else rows.storage.kv.device
        if device is not None and states.device != device:
            raise ValueError(f"{name} must be on {device} as the cache is, got {states.device}")
    check_room(rows, rows.lengths[layer] + keys.shape[2])


def check_kind(rows: Rows, name: str, states: torch.Tensor) -> None:
    """Of (..., heads, q, head_dim) states: the heads, the dimension and the dtype."""
    shape = (states.shape[-3], states.shape[-1])
    if rows.storage is not None:
        kv = rows.storage.kv
        if shape != (kv.shape[2], kv.shape[4]):
            raise ValueError(f"{name} must have (heads, head_dim) {(kv.shape[2], kv.shape[4])}, got {shape}")
    dtype = rows.dtype if rows.storage is None else rows.storage.kv.dtype
    if dtype is not None and states.dtype != dtype:
        raise ValueError(f"{name} must be {dtype} as the cache is, got {states.dtype}")


def check_tables(kv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, count: int) -> None:
    """Of a rotation of `count` rows."""
    for name, table in (("cos", cos), ("sin", sin)):
        if table.dtype != torch.float32 or table.device != kv.device:
            raise ValueError(f"{name} must be float32 on {kv.device}, got {table.dtype} on {table.device}")
        if table.ndim != 2 or table.shape[0] != count or 2 * table.shape[1] > kv.shape[4]:
            allowed = f"({count}, F) with F at most {kv.shape[4] // 2}"
            raise ValueError(f"{name} must have shape {allowed}, got {tuple(table.shape)}")
    if cos.shape != sin.shape:
        raise ValueError(f"sin must have the shape of cos {tuple(cos.shape)}, got {tuple(sin.shape)}")


def check_state(rows: Rows, keys: torch.Tensor, values: torch.Tensor) -> None:
    """Of saved rows (layers, heads, L, head_dim)."""
    if keys.ndim != 4 or keys.shape[0] != len(rows.lengths):
        allowed = f"({len(rows.lengths)}, heads, L, head_dim)"
        raise ValueError(f"state['keys'] must have shape {allowed}, got {tuple(keys.shape)}")
    if values.shape != keys.shape or values.dtype != keys.dtype:
        raise ValueError(f"state['values'] must be {keys.dtype} {tuple(keys.shape)} as the keys, got {values.dtype} "
                         f"{tuple(values.shape)}")  # fmt: skip
    if keys.shape[2]:
        check_kind(rows, "state['keys']", keys)
    check_room(rows, keys.shape[2])
