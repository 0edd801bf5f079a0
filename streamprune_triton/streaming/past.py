"""All that frames and remembered dialogues change in a session."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ..models.positions import Cursor
from ..pruner import StreamPruner
from .keeping import Keeping
from .rows import Rows

if TYPE_CHECKING:
    from ..cache import CarrierCache
    from ..models.base import DeepStack


class Block(NamedTuple):
    """A step of the stream, or a piece of text between its videos, that the cache may still hold rows of."""

    before: int  # tokens of text before a step's visual ones; of a text, all
    behind: int  # tokens of text behind them
    step: bool


@dataclass(frozen=True)
class Past:
    """Replaced as a whole, so that a call that fails has changed nothing; only the cache is written in place, behind a
    savepoint of its own.

    Attributes:
        cache: keys and values.
        rows: what they are.
        blocks: by number, oldest first.
        cursor: where the video's next step stands; None while no video is open.
        position: of the next token of text, while no video is open.
        top: the first position behind all that was read, dropped tokens included.
        keeping: who leaves when.
        pruner: with the stream's state.
        number: of the next block.
        steps: of the stream so far, those that never came included.
        turns: the remembered dialogue, as messages for a chat template.
        said: the token ids of all text that was read, each once: never more than the vocabulary has.
        grid: (H, W) of a step's tokens; None before the first.
        waiting: (n, height, width, 3) raw frames of a step that is not complete, n maybe 0; None before the first.
    """

    cache: CarrierCache
    rows: Rows
    keeping: Keeping
    pruner: StreamPruner
    blocks: dict[int, Block] = field(default_factory=dict)
    cursor: Cursor | None = None
    position: int = 0
    top: int = 0
    number: int = 0
    steps: int = 0
    turns: tuple[dict[str, Any], ...] = ()
    said: frozenset[int] = frozenset()
    grid: tuple[int, int] | None = None
    waiting: np.ndarray | None = None


def evicted(past: Past, time: int) -> Past:
    """Without the rows that nothing sees from this time on. The cache is written in place."""
    dead = past.rows.dead(time)
    if not len(dead):
        return past
    return replace(past, rows=past.rows.take(past.cache.drop(dead)))


class Reading(NamedTuple):
    """One step for the language model, and what it will be in the cache."""

    number: int  # of the block
    embeds: torch.Tensor  # (L, D)
    rows: Rows
    deepstack: DeepStack | None = None

    def split(self, at: int) -> tuple[Reading, Reading]:
        """Its first `at` rows, and the others, which are text."""
        first, rest = np.split(np.arange(len(self.rows)), [at])
        deepstack = None if self.deepstack is None else self.deepstack._replace(at=self.deepstack.at[:at])
        return (
            Reading(self.number, self.embeds[:at], self.rows.take(first), deepstack),
            Reading(self.number, self.embeds[at:], self.rows.take(rest)),
        )
