"""Caches that hold random rows in poisoned memory, and what they hold."""

from __future__ import annotations

import torch

from streamprune_triton.cache.rows import Rows


def filled(
    length: int,
    device: torch.device,
    *,
    layers: int = 2,
    heads: int = 2,
    dim: int = 8,
    capacity: int | None = 64,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Rows:
    """Rows of which so many are random; whatever else is in their memory is NaN."""
    rows = Rows(layers, capacity, (heads, dim), dtype, device)
    assert rows.storage is not None
    rows.storage.kv.fill_(float("nan"))
    extend(rows, length, seed)
    return rows


def extend(rows: Rows, count: int, seed: int = 1) -> None:
    """Appends random rows to every layer."""
    assert rows.storage is not None
    layers, pair, heads, _, dim = rows.storage.kv.shape
    new = torch.randn(layers, pair, 1, heads, count, dim, generator=torch.Generator().manual_seed(seed))
    for n, (keys, values) in enumerate(new.to(rows.storage.kv)):
        rows.append(keys, values, n)


def held(rows: Rows) -> torch.Tensor:
    """(2, layers, heads, L, head_dim): a copy of all rows, on the CPU."""
    state = rows.state()
    return torch.stack([state["keys"], state["values"]]).cpu()
