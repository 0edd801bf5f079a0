"""Compact positions: the gaps that eviction leaves are closed by rotating cached keys."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ..models.positions import Cursor
from .past import Past
from .rows import TOKEN, Rows

if TYPE_CHECKING:
    from ..cache import Rotary
    from ..models.positions import Layout


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
        past.cache.rotate(cos, sin, moved)
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
