"""A forward whose shapes do not tell how many rows a cache holds, so that it can be captured in a CUDA graph."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class FixedLayer(CacheLayerMixin):
    """One layer of a `FixedCache`, as transformers asks for it."""

    is_sliding = False
    is_croppable = False
    supports_early_init = False
    is_initialized = True
    batch_size = max_batch_size = 1

    def __init__(self, pair: torch.Tensor, at: torch.Tensor) -> None:
        self._pair, self._at = pair, at
        self._new = 0

    def lazy_initialization(self, *_: Any) -> None:
        """Nothing: the memory is the other cache's."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        for memory, new in zip(self._pair, (key_states, value_states), strict=True):
            memory.index_copy_(1, self._at, new[0])
        self._new = len(self._at)
        return self._pair[0:1], self._pair[1:2]

    def get_seq_length(self, *_: Any) -> int:
        return self._new  # nothing needs the rows before them: positions and mask are given

    def get_mask_sizes(self, query: int | torch.Tensor) -> tuple[int, int]:
        return self._pair.shape[2], 0

    def get_max_length(self) -> int:
        return self._pair.shape[2]

    get_max_cache_shape = get_max_length  # the name of older releases


class FixedCache(Cache):
    """The cache of one forward over L new rows, which gets the whole memory of a `CarrierCache` as keys and values.

        kv = cache.claim(L)                                     # rows behind those held, and room for them
        model(inputs_embeds=..., position_ids=..., attention_mask=mask, past_key_values=FixedCache(kv, at))
        cache.truncate(held + used)                             # gives back the rows that were padding

    `mask` (1, 1, L, capacity) must hide the rows that nothing was written to. They are finite, so that hidden is all
    they need to be. The same forward serves as long as `claim` returns the same memory.

    Args:
        kv: (layers, 2, heads, capacity, head_dim), of `CarrierCache.claim`.
        at: (L,) int64 on the device, the numbers of the new rows.
    """

    def __init__(self, kv: torch.Tensor, at: torch.Tensor) -> None:
        super().__init__(layers=[FixedLayer(pair, at) for pair in kv])
