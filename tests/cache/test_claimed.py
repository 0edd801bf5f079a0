"""Rows that are claimed for a forward in a fixed shape."""

from __future__ import annotations

import pytest
import torch
from filled import extend, filled, held

from streamprune_triton.cache.rows import Rows

CPU = torch.device("cpu")


def test_they_come_behind_those_held_and_are_finite() -> None:
    cache = filled(5, CPU)
    before = held(cache)
    kv = cache.claim(16)
    assert cache.length == 21
    assert kv.shape[3] == 64
    assert kv.isfinite().all()
    kv[:, :, :, 5:8] = 7.0
    cache.truncate(8)
    assert torch.equal(held(cache)[..., :5, :], before)
    assert (held(cache)[..., 5:, :] == 7.0).all()


def test_the_memory_is_the_same_until_it_grows() -> None:
    cache = filled(5, CPU, capacity=None)
    first = cache.claim(16)
    cache.truncate(6)
    assert cache.claim(16) is first
    assert first[:, :, :, 6:].eq(0).all(), "cleared once, not each time"
    cache.truncate(6)
    grown = cache.claim(1000)
    assert grown is not first
    assert grown.shape[3] >= 1006
    assert grown.isfinite().all()


def test_a_fork_behind_the_same_rows_is_not_written_over() -> None:
    cache = filled(5, CPU)
    fork = cache.fork()
    extend(fork, 3)
    theirs = held(fork)
    shared = fork.storage
    cache.claim(4).fill_(0.0)
    assert torch.equal(held(fork), theirs)
    assert cache.storage is not shared


@pytest.mark.parametrize(
    ("cache", "rows", "message"),
    [
        (filled(5, CPU, capacity=16), 12, "rows must be at most 11 to fit the capacity, got 12"),
        (Rows(2, None), 4, "rows must have been written before others are claimed"),
    ],
)
def test_refused(cache: Rows, rows: int, message: str) -> None:
    length = cache.length
    with pytest.raises(ValueError, match=message):
        cache.claim(rows)
    assert cache.length == length
