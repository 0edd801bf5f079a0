"""CarrierCache: a transformers cache whose rows are written, dropped and rotated where they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache

from ..validate import count
from .checks import check_memory, check_states
from .layer import CarrierLayer
from .rows import Numbers, Rows


class CarrierCache(Cache):
    """Keys and values of one sequence, in memory allocated once, for any decoder of transformers with RoPE.

        cache = CarrierCache(model.config, capacity=4096)
        with torch.no_grad():
            model(**inputs, past_key_values=cache)
            meta = meta[cache.drop([3, 4, 7])]  # whatever the caller knows of the rows moves along

    A **row** is one position's keys and values in all layers and heads. New rows come last, but a dropped one is
    replaced by one from the end, so the order of rows is free. Attention only sums over them, and their positions are
    in the keys already: a caller that has dropped rows passes `position_ids` itself, since the number of rows no longer
    tells where the text goes on, and a mask only where new rows are not to see all rows before them.

    Nothing is copied but by forks (see `fork`), behind a savepoint (see `begin`) and, with `capacity=None`, when the
    memory is doubled. A forward that fails halfway leaves layers of different lengths: `truncate` to the length before
    it and the rows are as they were.

    The carriers are VideoScan's (arXiv 2503.09387): a frame's rows are read once and then dropped but for one.

    Args:
        config: of the model; its text configuration says how many layers there are. They must all attend to everything.
        capacity: rows at most, or None for a cache that grows.
        device, dtype: of the memory. With both it is allocated here, else at the first forward.

    Raises:
        ValueError, TypeError: naming the argument. As of all methods, before anything is changed.
    """

    def __init__(
        self,
        config: Any,
        capacity: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        text = _text_config(config)
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        where = check_memory(device, dtype)
        self._set(Rows(text.num_hidden_layers, capacity, (heads, dim), dtype, where))

    def _set(self, rows: Rows) -> None:
        self._rows = rows
        super().__init__(layers=[CarrierLayer(rows, n) for n in range(len(rows.lengths))])

    def __repr__(self) -> str:
        lengths = sorted(set(self._rows.lengths))
        held = "-".join(map(str, lengths[:: max(1, len(lengths) - 1)]))
        return f"{type(self).__name__}(layers={len(self)}, rows={held}, capacity={self.capacity})"

    @property
    def capacity(self) -> int | None:
        """Rows at most; None without a bound."""
        return self._rows.capacity

    @property
    def nbytes(self) -> int:
        """Of the rows held."""
        storage = self._rows.storage
        return 0 if storage is None else sum(self._rows.lengths) * storage.kv[0, :, :, :1].nbytes

    @property
    def allocated_bytes(self) -> int:
        """Of the memory, which forks may share; 0 before the first forward where it is not allocated yet."""
        return 0 if self._rows.storage is None else self._rows.storage.kv.nbytes

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes new rows of one layer in place.

        Args:
            key_states, value_states: (1, heads, q, head_dim), not tracked by autograd: gradients would be those of
                rows that the next forward writes over.
            layer_idx: the layer.

        Returns:
            Keys and values (1, heads, L + q, head_dim) of all rows of the layer: windows on the memory, good until
            rows are dropped, rotated or rolled back.

        Raises:
            ValueError: naming the argument; beyond the capacity, naming it. The layer is as it was.
        """
        return self._rows.append(key_states, value_states, layer_idx)

    def check(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int) -> None:
        """Raises what `update` would, and writes nothing."""
        check_states(self._rows, key_states, value_states, layer_idx)

    def reserve(self, rows: int) -> None:
        """Takes memory for so many rows at once, so that a cache without a capacity copies none until it holds more.

        Raises ValueError where there is a capacity, and it is less.
        """
        self._rows.reserve(count("rows", rows, 0))

    def claim(self, rows: int) -> torch.Tensor:
        """Takes so many rows behind those held, for a forward with a `FixedCache` to write to.

        Until then they hold anything finite; `truncate` gives back those that are not used, and all of them where the
        forward fails.

        Returns:
            (layers, 2, heads, capacity, head_dim), the whole memory: the same tensor until it has to grow, or a fork
            has rows where these are.

        Raises:
            ValueError: beyond the capacity, and before the first row is written.
        """
        return self._rows.claim(rows)

    def truncate(self, length: int) -> None:
        """Forgets the rows from number `length` on, in every layer that has them; nothing is written."""
        self._rows.truncate(count("length", length, 0))

    def crop(self, length: int) -> None:
        """As releases of transformers call it: the length to roll back to, or, negative, how many rows to forget.

        0 does nothing, as the newest releases mean it; to forget all, `truncate(0)` or `reset()`.
        """
        super().crop(length)

    def drop(self, rows: Numbers) -> np.ndarray:
        """Removes rows from all layers: rows from the end move into the holes, the others stay where they are.

        One launch on a GPU, one small copy to it, no wait for it.

        Args:
            rows: (R,) distinct numbers of rows, on the host.

        Returns:
            (L - R,) int64: the old number of each row, so that `meta[source]` is the new rows' `meta`.
        """
        return self._rows.drop(rows)

    def keep(self, rows: Numbers) -> np.ndarray:
        """Drops all rows but these. Returns as `drop` does; the order of `rows` does not matter."""
        return self._rows.keep(rows)

    def rotate(self, cos: torch.Tensor, sin: torch.Tensor, rows: Numbers | None = None, pairs: bool = False) -> None:
        """Turns cached keys in place, so that they are those of other positions: one launch for all layers.

        (k1, k2) -> (k1 cos - k2 sin, k2 cos + k1 sin), k1 the first F features of a key and k2 the next F, the layout
        of transformers' `rotate_half`; features behind 2 F are left alone. In float32, then rounded to the keys'
        dtype, so each call adds one rounding: turn many positions at once rather than one position many times.

        Args:
            cos, sin: (R, F) float32 on the cache's device, 2 F <= head_dim; see `rotary.Rotary.tables`.
            rows: (R,) distinct numbers of rows, on the host; None for all in their order.
            pairs: k1 the even and k2 the odd ones of the first 2 F features, see `rotary.Rotary.pairs`.
        """
        self._rows.rotate(cos, sin, rows, pairs)

    def begin(self) -> None:
        """Opens a savepoint: whatever is done to the rows from here on, `rollback` gives them back, bit for bit.

        Until `commit`, rows that were there are copied before they are written over: those that are dropped or turned,
        not the others. A cache has one savepoint, the newest; its forks have none.
        """
        self._rows.begin()

    def commit(self) -> None:
        """Closes the savepoint; what was done since stays."""
        self._rows.commit()

    def rollback(self) -> None:
        """Takes back all that was done since `begin`, at whatever point it ended; nothing where no savepoint is."""
        self._rows.rollback()

    def fork(self) -> CarrierCache:
        """Another cache with the same rows that goes its own way, as `copy.deepcopy` gives it, too.

        Both use one memory. A copy of the rows is taken by the first that would write over a row of the other: who
        drops or rotates, or appends where the other has appended already. So a fork that only reads, or that appends
        a question and is forgotten, copies nothing, and while it is there its rows are safe from the other.
        Forks may be used in different threads, each in one; on a GPU by one CUDA stream, or by streams that are
        ordered as for any tensor they share.
        """
        other = object.__new__(type(self))
        other._set(self._rows.fork())
        return other

    def state(self) -> dict[str, torch.Tensor]:
        """Copies of the rows for `restore`: `keys` and `values`, (layers, heads, L, head_dim), in their order.

        The order is part of it: sums over rows in another order would differ in their last bits.
        """
        return self._rows.state()

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Replaces all rows by those of a `state()`, from whatever device; what follows is the same bit for bit."""
        self._rows.restore(state)


def _text_config(config: Any) -> Any:
    """The configuration of the decoder. Raises ValueError for layers that differ in what they attend to."""
    if not hasattr(config, "get_text_config"):
        raise TypeError(f"config must be a model's configuration, as model.config, got {type(config).__name__}")
    text = config.get_text_config(decoder=True)
    types = set(getattr(text, "layer_types", None) or ())
    window = getattr(text, "sliding_window", None) or getattr(text, "attention_chunk_size", None)
    if types - {"full_attention"} or (window is not None and not types):
        kinds = ", ".join(sorted(types)) or "sliding_attention"
        raise ValueError(f"config must have layers of full_attention only, got {kinds} in {text.model_type}")
    return text
