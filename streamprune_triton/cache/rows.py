"""The rows of a cache: appended, rolled back, dropped, rotated, shared with forks. Needs no transformers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from . import moves
from .checks import check_capacity, check_state, check_states, check_tables
from .savepoint import Savepoint
from .storage import Storage

FIRST_CAPACITY = 256  # of a cache without a bound, doubled as needed

Numbers = Sequence[int] | np.ndarray


class Rows:
    """One sequence's keys and values in all layers, which have one shape.

    Forks live in one memory. Whoever writes takes a copy first where another has a row at or behind the first one to
    be written, and only there: so a fork appends behind the rows of the others for free.

    Args:
        layers: their number.
        capacity: rows at most, or None: then memory is doubled, and the rows copied, when it is full.
        shape: (heads, head_dim), or None: known at the first append.
        dtype, device: of the memory, or None: those of the first append.
    """

    def __init__(
        self,
        layers: int,
        capacity: int | None,
        shape: tuple[int, int] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        check_capacity(capacity)
        self.lengths = [0] * layers  # written rows of each layer
        self.capacity = None if capacity is None else int(capacity)
        self.first = FIRST_CAPACITY
        self.dtype, self.device = dtype, device
        self.storage: Storage | None = None
        self._savepoint: Savepoint | None = None
        if shape is not None and dtype is not None and device is not None:
            self._allocate(shape, dtype, device)

    @property
    def length(self) -> int:
        """Rows of every layer. Raises ValueError where a forward ended halfway and they differ."""
        least, most = min(self.lengths), max(self.lengths)
        if least != most:
            raise ValueError(f"layers must hold the same rows, got {least} to {most}: truncate({least}) first")
        return least

    def view(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (1, heads, L, head_dim) of a layer's rows: windows on the memory, no copies."""
        assert self.storage is not None
        pair = self.storage.kv[layer, :, :, : self.lengths[layer]]
        return pair[0:1], pair[1:2]

    def append(self, keys: torch.Tensor, values: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes (1, heads, q, head_dim) new keys and values behind a layer's rows; returns `view(layer)`.

        Raises:
            ValueError: for another shape, dtype or device than the rows', for tensors that autograd tracks, and
                beyond the capacity. Then nothing was written.
        """
        check_states(self, keys, values, layer)
        if self.storage is None:
            self._allocate((keys.shape[1], keys.shape[3]), keys.dtype, keys.device)
        start = self.lengths[layer]
        stop = start + keys.shape[2]
        kv = self._own(start, stop, (layer,))
        with torch.no_grad():
            kv[layer, 0, :, start:stop] = keys[0]
            kv[layer, 1, :, start:stop] = values[0]
        return self.view(layer)

    def claim(self, rows: int) -> torch.Tensor:
        """Takes so many rows in every layer, with whatever finite values; see `CarrierCache.claim`."""
        start, layers = self.length, range(len(self.lengths))
        stop = start + rows
        if self.capacity is not None and stop > self.capacity:
            raise ValueError(f"rows must be at most {self.capacity - start} to fit the capacity, got {rows}")
        if self.storage is None:
            raise ValueError("rows must have been written before others are claimed")
        kv = self._own(start, stop, layers)
        if not self.storage.finite:
            kv[:, :, :, start:].zero_()
            self.storage.finite = True
        return kv

    def truncate(self, length: int, layer: int | None = None) -> None:
        """Forgets the rows from number `length` on, of one layer or of all."""
        if self._savepoint is not None:  # the next rows are written over these
            self._save(np.arange(length, min(self._savepoint.length, max(self.lengths))))
        for each in range(len(self.lengths)) if layer is None else [layer]:
            self.lengths[each] = min(self.lengths[each], length)

    def reserve(self, rows: int) -> None:
        """Takes memory for so many rows at once; see `CarrierCache.reserve`."""
        if self.capacity is not None and rows > self.capacity:
            raise ValueError(f"rows must be at most the capacity {self.capacity}, got {rows}")
        if self.storage is None:
            self.first = max(self.first, rows)
        elif rows > self.storage.capacity:
            self._own(max(self.lengths), rows)

    def drop(self, rows: Numbers) -> np.ndarray:
        """Removes rows from all layers and returns the old number of each row left; see `CarrierCache.drop`."""
        length = self.length
        source, holes = moves.filled(length, moves.numbers(rows, length))
        if len(holes):
            self._save(holes)
            moves.move(self._own(int(holes[0])), source[holes], holes)
        self.truncate(len(source))
        return source

    def keep(self, rows: Numbers) -> np.ndarray:
        """Drops all rows but these."""
        leaves = np.ones(self.length, bool)
        leaves[moves.numbers(rows, len(leaves))] = False
        return self.drop(np.flatnonzero(leaves))

    def rotate(self, cos: torch.Tensor, sin: torch.Tensor, rows: Numbers | None = None, pairs: bool = False) -> None:
        """Turns the keys of these rows, or of all, in all layers; see `CarrierCache.rotate`."""
        length = self.length
        each = None if rows is None else moves.numbers(rows, length)
        if self.storage is None:
            return
        check_tables(self.storage.kv, cos, sin, length if each is None else len(each))
        if cos.numel():
            self._save(np.arange(length) if each is None else each)
            kv = self._own(0 if each is None else int(each.min()))
            moves.rotate(kv[:, 0], cos.contiguous(), sin.contiguous(), each, pairs)

    def begin(self) -> None:
        """From here on, rows are copied before they are written over; see `CarrierCache.begin`."""
        self._savepoint = Savepoint(self.length)

    def commit(self) -> None:
        """Forgets the copies."""
        self._savepoint = None

    def rollback(self) -> None:
        """The rows are those of the last `begin`, unless there was a `commit` since."""
        point = self._savepoint
        if point is None:
            return
        if point.first < point.length:
            point.put_back(self._own(point.first, point.length, range(len(self.lengths))))
        self.lengths = [point.length] * len(self.lengths)
        self._savepoint = None

    def _save(self, rows: np.ndarray) -> None:
        if self._savepoint is not None and self.storage is not None:
            self._savepoint.copy(self.storage.kv, rows)

    def fork(self) -> Rows:
        """Another with the same rows, in the same memory until one of the two writes over the other's."""
        other = Rows(len(self.lengths), self.capacity, None, self.dtype, self.device)
        if self.storage is not None:
            with self.storage.lock:
                other.lengths = list(self.lengths)
                other._enter(self.storage)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Rows:
        return self.fork()

    def __reduce__(self) -> Any:
        raise TypeError("a CarrierCache cannot be pickled: save its state(), and restore it in another cache")

    def state(self) -> dict[str, torch.Tensor]:
        """Copies of the rows, `keys` and `values` (layers, heads, L, head_dim), in the order of the memory."""
        length = self.length
        if self.storage is None:
            return {name: torch.empty(len(self.lengths), 0, 0, 0) for name in ("keys", "values")}
        kv = self.storage.kv[:, :, :, :length]
        return {"keys": kv[:, 0].clone(), "values": kv[:, 1].clone()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Replaces the rows by those of a `state()`. Raises ValueError, and changes nothing, where they do not fit."""
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a dict of tensors, got {type(state).__name__}")
        if set(state) != {"keys", "values"}:
            raise ValueError(f"state must have keys and values, got {', '.join(sorted(map(str, state))) or 'nothing'}")
        keys, values = state["keys"], state["values"]
        check_state(self, keys, values)
        length = keys.shape[2]
        if length and self.storage is None:
            self._allocate((keys.shape[1], keys.shape[3]), keys.dtype, self.device or keys.device)
        self._save(np.arange(max(self.lengths)))
        if length:
            kv = self._own(0, length)
            with torch.no_grad():
                kv[:, 0, :, :length] = keys.to(kv.device)
                kv[:, 1, :, :length] = values.to(kv.device)
        self.lengths = [length] * len(self.lengths)

    def _allocate(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        heads, dim = shape
        capacity = self.first if self.capacity is None else self.capacity
        self._enter(Storage((len(self.lengths), heads, capacity, dim), dtype, device))

    def _enter(self, storage: Storage) -> torch.Tensor:
        storage.sharers.add(self)
        self.storage = storage
        return storage.kv

    def _own(self, first: int, stop: int = 0, layers: Iterable[int] = ()) -> torch.Tensor:
        """The memory, with room for `stop` rows, in which no other has a row from number `first` on.

        The lengths of `layers` become `stop` before anybody else may look, which tells the others to keep off.
        """
        storage = self.storage
        assert storage is not None
        with storage.lock:
            kv, full = storage.kv, stop > storage.capacity
            if full or storage.wanted(first, self):
                capacity = max(2 * storage.capacity, stop) if full else storage.capacity
                kv = self._enter(storage.copy(max(self.lengths), capacity))
                storage.sharers.discard(self)
            for layer in layers:
                self.lengths[layer] = stop
        return kv
