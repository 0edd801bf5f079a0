"""Rows leave by hole filling, and keys turn to other positions: what is moved where, and by whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..ops import runs_triton
from ..transfer import upload


def numbers(rows: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
    """(R,) int64. Raises TypeError or ValueError where they are no distinct row numbers below `length`."""
    if isinstance(rows, torch.Tensor):  # even one on the CPU: none may ever come that has to be waited for
        raise TypeError("rows must be integers on the host, got a tensor")
    array = np.asarray(rows)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"rows must be integers on the host, got {array.dtype}")
    array = array.astype(np.int64)
    if array.ndim != 1:
        raise ValueError(f"rows must have shape (R,), got {array.shape}")
    if array.size and not 0 <= array.min() <= array.max() < length:
        raise ValueError(f"rows must be in 0 .. {length - 1}, got {array.min()} .. {array.max()}")
    there = np.zeros(length, bool)
    there[array] = True
    if np.count_nonzero(there) != array.size:
        raise ValueError("rows must be distinct, got one twice")
    return array


def filled(length: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which row goes where when `rows` leave `length` rows.

    Returns:
        source: (length - R,) int64, the old number of each new row; source[n] = n where nothing was moved.
        holes: (H,) int64, the new rows that were moved. Their sources all lie behind the new end, so moving them all
            at once overwrites none that is still to be read.
    """
    left = length - len(rows)
    stays = np.ones(length, bool)
    stays[rows] = False
    holes = np.flatnonzero(~stays[:left])
    source = np.arange(left)
    source[holes] = left + np.flatnonzero(stays[left:])
    return source, holes


def on(device: torch.device, array: np.ndarray) -> torch.Tensor:
    """The array on a device: one copy that the host does not wait for."""
    return upload(torch.from_numpy(np.ascontiguousarray(array)), device)


def move(kv: torch.Tensor, sources: np.ndarray, holes: np.ndarray) -> None:
    """Row sources[m] to row holes[m], in every layer and head of kv (layers, 2, heads, capacity, head_dim)."""
    table = on(kv.device, np.stack([sources, holes]))
    if not runs_triton(kv.device):
        kv.index_copy_(3, table[1], kv.index_select(3, table[0]))
        return
    from ..kernels.cache_move import move as launch

    with torch.cuda.device_of(kv):
        launch(table, kv)


def rotate(
    keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, rows: np.ndarray | None, pairs: bool = False
) -> None:
    """Turns the first 2 F features of rows of keys (layers, heads, capacity, head_dim) by cos, sin (R, F) float32.

    (k1, k2) -> (k1 cos - k2 sin, k2 cos + k1 sin) for k1 the first F features and k2 the next F, in float32; with
    `pairs` for k1 the even and k2 the odd ones.
    Rows are 0 .. R - 1 where `rows` (R,) is None.
    """
    table = None if rows is None else on(keys.device, rows)
    if not runs_triton(keys.device):
        _rotate(keys, cos, sin, table, pairs)
        return
    from ..kernels.cache_rotate import rotate as launch

    with torch.cuda.device_of(keys):
        launch(table, keys, cos, sin, pairs)


def _rotate(keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, rows: torch.Tensor | None, pairs: bool) -> None:
    count, f = cos.shape
    turned = keys[..., : 2 * f]
    old = turned[:, :, :count] if rows is None else turned.index_select(2, rows)
    axis = -1 if pairs else -2
    k1, k2 = old.float().unflatten(-1, (f, 2) if pairs else (2, f)).unbind(axis)
    new = torch.stack([k1 * cos - k2 * sin, k2 * cos + k1 * sin], axis).flatten(-2).to(keys.dtype)
    if rows is None:
        turned[:, :, :count] = new
    else:
        turned.index_copy_(2, rows, new)
