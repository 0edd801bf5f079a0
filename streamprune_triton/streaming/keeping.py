"""Which rows leave the cache, and when: the rules of `Memory`, on the host, before anything is read.

Time goes by two a block, which is a step of the stream or a piece of text: block b is read at time 2 b, and what
leaves because of it leaves in front of it, at 2 b, or behind it, at 2 b + 1. A row that dies at t is seen before t.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import NamedTuple

import numpy as np

from .memory import Memory


class Death(NamedTuple):
    """What of a block dies, and when."""

    block: int
    carrier: bool  # the carrier and what stays with it, or the visual tokens
    time: int


class Keeping:
    """What a session holds, oldest first, under the rules of its memory."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.visual: list[tuple[int, int]] = []  # (block, rows) of steps whose visual tokens stay
        self.carriers: list[tuple[int, np.ndarray]] = []  # (block, embedding (D,) float32)
        self.similar: list[float] = []  # of each carrier but the last: cosine to the next
        self.dialogue: list[tuple[int, int]] = []  # (block, rows) of remembered turns

    def copy(self) -> Keeping:
        other = Keeping(self.memory)
        other.visual, other.carriers = list(self.visual), list(self.carriers)
        other.similar, other.dialogue = list(self.similar), list(self.dialogue)
        return other

    def admit(self, block: int, rows: int, carrier: np.ndarray | None) -> list[Death]:
        """Takes a step in: its visual rows (in "tokens" mode with its text) and its carrier. Returns who dies of it."""
        deaths = list(self._make_room(block, rows))
        if rows or carrier is not None:
            self.visual.append((block, rows))
        if carrier is not None:
            deaths += self._age(block)
            deaths += self._add_carrier(block, carrier)
        return deaths

    def remember(self, block: int, rows: int) -> list[Death]:
        """Takes a turn of the dialogue in, read as block number `block`."""
        self.dialogue.append((block, rows))
        deaths = []
        while sum(count for _, count in self.dialogue) > self.memory.max_dialogue:
            deaths.append(Death(self.dialogue.pop(0)[0], True, 2 * block + 1))
        return deaths

    def forget_oldest(self, time: int) -> list[Death]:
        """What goes where a bound outside of the memory's own is met: the oldest tokens, else a carrier."""
        if self.visual and self.memory.mode == "tokens":
            return [Death(self.visual.pop(0)[0], False, time)]
        return [self._merge(time)] if len(self.carriers) > 1 else []

    @property
    def _recent(self) -> int:
        """So many newest frames keep their visual tokens."""
        return self.memory.recent_frames if self.memory.mode == "hybrid" else 0

    def _make_room(self, block: int, rows: int) -> Iterator[Death]:
        """The fewest oldest steps leave before one is read that would not fit."""
        most = self.memory.max_tokens
        excess = 0 if most is None else sum(count for _, count in self.visual) + rows - most
        while excess > 0 and self.visual:
            oldest, count = self.visual.pop(0)
            excess -= count
            yield Death(oldest, False, 2 * block)

    def _age(self, block: int) -> Iterator[Death]:
        """Visual tokens live through `recent_frames` more steps; in "carriers" mode through their own."""
        while len(self.visual) > self._recent:
            yield Death(self.visual.pop(0)[0], False, 2 * block + 1)

    def _add_carrier(self, block: int, carrier: np.ndarray) -> Iterator[Death]:
        if self.carriers:
            self.similar.append(cosine(self.carriers[-1][1], carrier))
        self.carriers.append((block, carrier.copy()))  # else one row would hold on to the memory of its whole call
        if len(self.carriers) > self.memory.max_carriers:
            yield self._merge(2 * block + 1)

    def _merge(self, time: int) -> Death:
        """The older of the most similar neighbours goes, of several such pairs the oldest; never a recent frame."""
        at = int(np.argmax(self.similar[: max(1, len(self.carriers) - self._recent)]))
        block, _ = self.carriers.pop(at)
        self.similar.pop(at)
        if at:
            self.similar[at - 1] = cosine(self.carriers[at - 1][1], self.carriers[at][1])
        return Death(block, True, time)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two vectors, in float64; 0 where one is zero or not finite."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        value = float(a @ b / max(sqrt(a @ a) * sqrt(b @ b), 1e-16))
    return value if np.isfinite(value) else 0.0
