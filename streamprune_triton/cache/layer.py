"""A layer of a `CarrierCache`, as transformers asks for it: releases differ in names and signatures."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import CacheLayerMixin

from .rows import Rows


class CarrierLayer(CacheLayerMixin):
    """A window on one layer of `Rows`."""

    is_sliding = False
    is_croppable = True
    supports_early_init = False
    batch_size = max_batch_size = 1

    def __init__(self, rows: Rows, layer: int) -> None:
        self._rows, self._layer = rows, layer  # not the cache: a cycle would keep forgotten forks alive

    @property
    def is_initialized(self) -> bool:
        return self._rows.storage is not None

    @property
    def keys(self) -> torch.Tensor | None:  # type: ignore[override]
        return self._rows.view(self._layer)[0] if self.is_initialized else None

    @property
    def values(self) -> torch.Tensor | None:  # type: ignore[override]
        return self._rows.view(self._layer)[1] if self.is_initialized else None

    def lazy_initialization(self, *_: Any) -> None:
        """Nothing: the memory of all layers comes at once."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        return self._rows.append(key_states, value_states, self._layer)

    def get_seq_length(self, *_: Any) -> int:
        return self._rows.lengths[self._layer]

    def get_mask_sizes(self, query: int | torch.Tensor) -> tuple[int, int]:
        """(rows after a forward of this query, 0). The query comes as its length, in older releases as positions."""
        return self.get_seq_length() + (query if isinstance(query, int) else query.shape[0]), 0

    def get_max_length(self) -> int:
        return -1 if self._rows.capacity is None else self._rows.capacity

    get_max_cache_shape = get_max_length  # the name of older releases

    def reset(self) -> None:
        self._rows.truncate(0, self._layer)

    def crop(self, length: int) -> None:
        self._rows.truncate(length if length > 0 else max(0, self.get_seq_length() + length), self._layer)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        raise ValueError("num_beams must be 1: a CarrierCache holds one sequence")

    def batch_repeat_interleave(self, repeats: int) -> None:
        raise ValueError(f"repeats must be 1: a CarrierCache holds one sequence, got {repeats}")

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        raise ValueError("indices must select nothing: a CarrierCache holds one sequence")
