"""The keys and values of a session in tokens mode."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Visual:
    """Text, then the kept visual tokens of the newest steps.

    Attributes:
        cache: transformers' DynamicCache, one sequence. Its layers replace their tensors and never write into them,
            which is what makes a fork free.
        text: tokens of text at the beginning.
        held: visual tokens of each step behind them, oldest first, steps without any left out; only kept under a
            bound.
    """

    cache: Any
    text: int = 0
    held: list[int] = field(default_factory=list)

    @classmethod
    def empty(cls) -> Visual:
        from transformers import DynamicCache

        return cls(DynamicCache())

    @property
    def tokens(self) -> int:
        """Positions held, text included."""
        return int(self.cache.get_seq_length())

    @property
    def bytes(self) -> int:
        """Of the keys and values in all layers."""
        return sum(each.nbytes for layer in self.cache.layers for each in (layer.keys, layer.values))

    def fork(self) -> Visual:
        """Another that grows on its own from the same tensors, without a copy."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        return Visual(cache, self.text, list(self.held))

    def room(self, counts: list[int], most: int | None) -> Iterator[slice]:
        """Which rows of the next steps' tokens to read at once, as slices, their number a step being `counts`.

        Between two of them the oldest steps leave, so that no more than `most` visual tokens are ever held. What a
        step sees does not depend on how many steps come at once.
        """
        first = last = 0
        for count in counts:
            if most is not None:
                if sum(self.held) + count > most and last > first:
                    yield slice(first, last)
                    first = last
                self._drop(self._oldest(sum(self.held) + count - most))
                if count:
                    self.held.append(count)
            last += count
        if last > first:
            yield slice(first, last)

    def _oldest(self, excess: int) -> int:
        """Forgets the fewest oldest steps with at least `excess` tokens in all, and returns how many those have."""
        dropped = 0
        while dropped < excess:
            dropped += self.held.pop(0)
        return dropped

    def _drop(self, count: int) -> None:
        """Drops the oldest `count` visual tokens of every layer."""
        if not count:
            return
        for layer in self.cache.layers:
            for name in ("keys", "values"):
                rows = getattr(layer, name)  # (1, heads, L, d)
                kept = torch.cat([rows[:, :, : self.text], rows[:, :, self.text + count :]], dim=2)
                setattr(layer, name, kept)
