"""What takes back the writes of a call that has failed: the rows that it wrote over, copied before."""

from __future__ import annotations

import numpy as np
import torch

from . import moves


class Savepoint:
    """A cache's length at some time, and what its rows of that time held where they were written over since.

    Args:
        length: rows at that time.

    Attributes:
        length: of then.
        first: the first of these rows that was written over; `length` where none was.
    """

    def __init__(self, length: int) -> None:
        self.length = self.first = length
        self._intact = np.ones(length, bool)
        self._copies: list[tuple[torch.Tensor, torch.Tensor]] = []

    def copy(self, kv: torch.Tensor, rows: np.ndarray) -> None:
        """Copies rows (R,) of kv (layers, 2, heads, capacity, head_dim), each the first time: at most all of then."""
        rows = rows[rows < self.length]
        rows = rows[self._intact[rows]]
        if not len(rows):
            return
        index = moves.on(kv.device, rows)
        self._copies.append((index, kv.index_select(3, index)))
        self.first = min(self.first, int(rows.min()))
        self._intact[rows] = False

    def put_back(self, kv: torch.Tensor) -> None:
        """Writes the copies to kv."""
        for index, rows in self._copies:
            kv.index_copy_(3, index, rows)
