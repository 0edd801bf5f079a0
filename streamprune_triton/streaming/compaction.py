"""Compact positions: the gaps that eviction leaves are closed by rotating cached keys."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ..models.positions import Cursor
from .past import Past, evicted
from .rows import TOKEN, Rows

if TYPE_CHECKING:
    from ..cache import Rotary
    from ..models.base import Adapter
    from ..models.positions import Layout
    from .memory import Memory


class Closing:
    """When gaps are closed, and how much may stand after that: 7/8 of the model's positions.

    The rest is for a question, its answer and the next step.

    Args:
        adapter: of the model.
        memory: what stays.
        fps: raw frames a second.

    Raises:
        ValueError: for a model whose keys cannot be turned to other positions.
    """

    def __init__(self, adapter: Adapter, memory: Memory, fps: float) -> None:
        from ..cache import Rotary

        limit = adapter.model.config.get_text_config().max_position_embeddings
        self._adapter, self._memory, self._fps = adapter, memory, fps
        self.most = limit - limit // 8
        self.rotary = Rotary.of(adapter.language_model)

    def closed(self, past: Past, layout: Layout) -> Past:
        """The past with gaps closed where it has come too far."""
        return past if past.top <= self.most else compacted(self._fitting(past, layout), layout, self.rotary)

    def steps(self, past: Past, layout: Layout, count: int) -> int:
        """How many of the next `count` steps can be read before gaps are to be closed, that step included."""
        cursor = past.cursor
        assert cursor is not None
        for n in range(count):
            cursor, top = self._behind(layout, cursor, past.steps + n)
            if top > self.most:
                return n + 1
        return count

    def gap(self, past: Past, layout: Layout, steps: int) -> int:
        """How many of the next `steps`, which never came, positions can tell with room for another step behind them.

        The rest of the gap is closed before it is there.
        """
        cursor = past.cursor
        assert cursor is not None

        def exceeds(count: int) -> bool:
            return self._behind(layout, layout.skip(cursor, count), past.steps + count)[1] > self.most

        reach = 1
        while reach < steps and not exceeds(reach):  # what is far beyond is never asked for
            reach *= 2
        return max(0, bisect_right(range(min(reach, steps) + 1), False, key=exceeds) - 1)

    def _behind(self, layout: Layout, cursor: Cursor, step: int) -> tuple[Cursor, int]:
        """(the cursor behind the step of this number, the first position behind it)."""
        before, behind = (len(text) for text in self._adapter.around(step, self._fps, first=not cursor.steps))
        place = layout.place(cursor, before, behind)
        return place.next, max(int(place.positions.max()) + 1, layout.end(place.next))

    def _fitting(self, past: Past, layout: Layout) -> Past:
        """Without the oldest, where even closed up it would stand too far."""
        while relaid(past, layout).top > self.most:
            keeping = past.keeping.copy()
            deaths = keeping.forget_oldest(2 * past.number)
            if not deaths:
                break
            rows = past.rows.dying(deaths, self._memory.carriers)
            past = evicted(replace(past, keeping=keeping, rows=rows), 2 * past.number)
        return past


def compacted(past: Past, layout: Layout, rotary: Rotary) -> Past:
    """The past with what is left of it standing as if it had followed each other from the start.

    Steps stand as their layout has them, one behind the other; where a layout gives every token a position of its own,
    steps whose visual tokens are gone take none for them. The order of positions stays. Keys are rotated by the
    difference, in place; attention depends on differences of positions alone, so what stays together sees no change.
    """
    found = relaid(past, layout)
    position = found.position
    shift = position - past.rows.position
    moved = np.flatnonzero(shift.any(0))
    if len(moved):
        cos, sin = rotary.tables(torch.from_numpy(shift[:, moved]))
        past.cache.rotate(cos, sin, moved, rotary.pairs)
    rows = past.rows.placed(position)
    return replace(past, rows=rows, cursor=found.cursor, position=found.end, top=found.top)


class Relaid(NamedTuple):
    """Where what is left would stand."""

    position: np.ndarray  # (A, R)
    cursor: Cursor | None  # of the open video
    end: int  # the position of the next token of text

    @property
    def top(self) -> int:
        """The first position behind all of it; in some releases of transformers text starts before the latest time."""
        return max(self.end, int(self.position.max(initial=-1)) + 1)


def relaid(past: Past, layout: Layout) -> Relaid:
    """Positions as if what is left had followed each other from the start."""
    rows, position = past.rows, past.rows.position.copy()
    whole = set(rows.block[rows.kind == TOKEN].tolist())
    end, cursor = 0, None
    for number, mine in _by_block(rows):
        block = past.blocks[number]
        if block.step:
            cursor = Cursor(end) if cursor is None else cursor
            place = layout.place(cursor, block.before, block.behind, squeezed=number not in whole)
            position[:, mine] = place.positions.numpy()[:, rows.slot[mine]]
            cursor = place.next
            end = layout.end(cursor)
        else:
            position[:, mine] = end + rows.slot[mine]
            end, cursor = end + block.before, None
    if past.cursor is None:
        return Relaid(position, None, end)
    return Relaid(position, Cursor(end) if cursor is None else cursor, end)


def _by_block(rows: Rows) -> list[tuple[int, np.ndarray]]:
    """(number of the block, numbers of its rows), in the order of reading."""
    order = np.argsort(rows.block, kind="stable")
    numbers, begins = np.unique(rows.block[order], return_index=True)
    return list(zip(numbers.tolist(), np.split(order, begins[1:]), strict=True))
