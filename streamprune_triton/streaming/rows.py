"""What the rows of a session's cache are: of which step or text, at which position, and until when they are seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from .keeping import Death

FOREVER = np.iinfo(np.int64).max
TEXT, TOKEN, CARRIER, FRAME_BEGIN, FRAME_END = range(5)


@dataclass(frozen=True)
class Rows:
    """Row r of the cache is described by element r of each array; the arrays are never written.

    Attributes:
        block: (R,) int64, the number of the step or piece of text it is of; numbers tell the order of reading.
        slot: (R,) int64, its place in the block: of a step text before, H*W tokens, carrier, text behind.
        kind: (R,) int64, one of TEXT, TOKEN, CARRIER, FRAME_BEGIN, FRAME_END (text around a step's tokens).
        dies: (R,) int64, the first time at which it is not seen, see `keeping`.
        position: (A, R) int64, where it stands.
    """

    block: np.ndarray
    slot: np.ndarray
    kind: np.ndarray
    dies: np.ndarray
    position: np.ndarray

    @classmethod
    def none(cls, axes: int) -> Rows:
        empty = np.empty(0, np.int64)
        return cls(empty, empty, empty, empty, np.empty((axes, 0), np.int64))

    @classmethod
    def text(cls, block: int, first: int, count: int, axes: int) -> Rows:
        """`count` tokens of text from position `first` on, the same on all axes."""
        slot = np.arange(count)
        filled = [np.full(count, value, np.int64) for value in (block, TEXT, FOREVER)]
        return cls(filled[0], slot, filled[1], filled[2], np.tile(first + slot, (axes, 1)))

    def __len__(self) -> int:
        return len(self.block)

    @property
    def top(self) -> int:
        """The first position behind all rows'."""
        return int(self.position.max(initial=-1)) + 1

    def then(self, others: Iterable[Rows]) -> Rows:
        """These rows and, behind them, others."""
        every = [self, *others]
        return Rows(
            np.concatenate([each.block for each in every]),
            np.concatenate([each.slot for each in every]),
            np.concatenate([each.kind for each in every]),
            np.concatenate([each.dies for each in every]),
            np.concatenate([each.position for each in every], 1),
        )

    def take(self, source: np.ndarray) -> Rows:
        """The rows of these numbers, in their order."""
        return Rows(
            self.block[source], self.slot[source], self.kind[source], self.dies[source], self.position[:, source]
        )

    def placed(self, position: np.ndarray) -> Rows:
        """The same rows at other positions (A, R)."""
        return Rows(self.block, self.slot, self.kind, self.dies, position)

    def dying(self, deaths: Iterable[Death], carriers: bool) -> Rows:
        """With the deaths noted. A step's own text dies with its carrier, or, without `carriers`, with its tokens."""
        dies = self.dies.copy()
        carried = (self.kind == CARRIER) | (self.kind == TEXT) | ((self.kind >= FRAME_BEGIN) & carriers)
        for death in deaths:
            dies[(self.block == death.block) & (carried == death.carrier)] = death.time
        return Rows(self.block, self.slot, self.kind, dies, self.position)

    @property
    def time(self) -> np.ndarray:
        """(R,) int64, when each row was read: text behind a step counts as read after the step, as all text does."""
        return 2 * self.block + (self.kind == FRAME_END)

    def dead(self, time: int) -> np.ndarray:
        """Numbers of the rows that nothing sees from this time on."""
        return np.flatnonzero(self.dies <= time)

    def seen(self, new: int) -> torch.Tensor | None:
        """(new, R) bool: which rows each of the last `new` sees; None where that is all before it."""
        return None if self.dies.min() > self.time[-1] else self.sight(new)

    def sight(self, new: int) -> torch.Tensor:
        """As `seen`, always a tensor."""
        from ..masks import visible

        return visible(torch.from_numpy(self.time[len(self) - new :]), torch.from_numpy(self.dies))
