"""Several sequences in one forward, each with a cache of its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from .carrier_cache import CarrierCache


class PackedLayer(CacheLayerMixin):
    """One layer of a `PackedCache`, as transformers asks for it: the sequences' rows one after the other."""

    is_sliding = False
    is_croppable = False
    supports_early_init = False
    is_initialized = True
    batch_size = max_batch_size = 1

    def __init__(self, caches: Sequence[CarrierCache], sizes: Sequence[int], layer: int) -> None:
        self._caches, self._layer = caches, layer
        self._bounds = [0, *accumulate(sizes)]

    def lazy_initialization(self, *_: Any) -> None:
        """Nothing: the caches have memory of their own."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        if key_states.ndim != 4 or key_states.shape[2] != self._bounds[-1]:
            allowed = f"(1, heads, {self._bounds[-1]}, head_dim) for these sizes"
            raise ValueError(f"key_states must have shape {allowed}, got {tuple(key_states.shape)}")
        parts = [(key_states[:, :, a:b], value_states[:, :, a:b]) for a, b in pairwise(self._bounds)]
        for cache, part in zip(self._caches, parts, strict=True):
            cache.check(*part, self._layer)
        rows = [cache.update(*part, self._layer) for cache, part in zip(self._caches, parts, strict=True)]
        return torch.cat([keys for keys, _ in rows], 2), torch.cat([values for _, values in rows], 2)

    def get_seq_length(self, *_: Any) -> int:
        return sum(cache.get_seq_length(self._layer) for cache in self._caches)

    def get_mask_sizes(self, query: int | torch.Tensor) -> tuple[int, int]:
        return self.get_seq_length() + (query if isinstance(query, int) else query.shape[0]), 0

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # the name of older releases


class PackedCache(Cache):
    """The cache of one forward over new tokens of several sequences, concatenated to one of batch 1.

        packed = PackedCache([a, b], sizes=[3, 1])  # 3 new tokens of a's sequence, then 1 of b's
        model(inputs_embeds=..., position_ids=..., attention_mask=mask, past_key_values=packed)

    Each sequence's new rows go to its own cache. Attention gets the rows of all: those of the first sequence, old and
    new, then those of the second, and so on. `mask` (1, 1, sum(sizes), all rows) must keep the sequences apart; `spans`
    tells where they are. A forward copies all live rows of each layer once, to put them side by side: worth it where
    sequences are short against the weights that a forward reads.

    Args:
        caches: one a sequence, of the same model; none twice.
        sizes: new tokens of each in this forward.
    """

    def __init__(self, caches: Sequence[CarrierCache], sizes: Sequence[int]) -> None:
        if len({id(cache) for cache in caches}) != len(caches) or not caches:
            raise ValueError(f"caches must be different ones, at least one, got {len(caches)} with one twice or none")
        if len(sizes) != len(caches) or min(sizes) < 0:
            raise ValueError(f"sizes must be {len(caches)} numbers of new tokens, one a cache, got {list(sizes)}")
        if len({len(cache) for cache in caches}) > 1:
            raise ValueError(f"caches must have as many layers, got {[len(cache) for cache in caches]}")
        self._caches, self._sizes = list(caches), list(sizes)
        super().__init__(layers=[PackedLayer(self._caches, self._sizes, n) for n in range(len(caches[0]))])

    def spans(self) -> list[tuple[int, int]]:
        """(first, last + 1) of each sequence's rows, before the forward, in the keys that its attention will get."""
        held = [cache.get_seq_length() + size for cache, size in zip(self._caches, self._sizes, strict=True)]
        bounds = [0, *accumulate(held)]
        return list(pairwise(bounds))
