"""The memory of a cache: keys and values of all layers in one tensor, which several caches may share."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .rows import Rows


class Storage:
    """Rows of all layers, and who looks at them.

    Attributes:
        kv: (layers, 2, heads, capacity, head_dim), keys before values, contiguous. Without values where no row is.
        sharers: the `Rows` that live in it, held weakly, so that one that is forgotten costs nothing.
        finite: whether all of it is known to be, rows that nobody wrote included.
        lock: held while it is decided who may write where, and while the rows of one that leaves are copied.
    """

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        layers, heads, capacity, dim = shape
        with torch.inference_mode(False):  # an inference tensor could not be written outside of that mode
            self.kv = torch.empty((layers, 2, heads, capacity, dim), dtype=dtype, device=device)
        self.sharers: weakref.WeakSet[Rows] = weakref.WeakSet()
        self.finite = False
        self.lock = threading.Lock()

    @property
    def capacity(self) -> int:
        return self.kv.shape[3]

    def wanted(self, first: int, but: Rows) -> bool:
        """Whether anybody but one has a row from number `first` on. The lock is held."""
        return len(self.sharers) > 1 and any(max(each.lengths) > first for each in self.sharers if each is not but)

    def copy(self, rows: int, capacity: int) -> Storage:
        """Another with the first `rows` rows of this one, and nobody in it yet."""
        layers, _, heads, _, dim = self.kv.shape
        other = Storage((layers, heads, capacity, dim), self.kv.dtype, self.kv.device)
        with torch.no_grad():
            other.kv[:, :, :, :rows].copy_(self.kv[:, :, :, :rows])
        return other
