"""A rollback gives back every bit of the rows that were there, whatever was done to them and wherever it ended."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from filled import extend, filled, held

from streamprune_triton.cache import moves
from streamprune_triton.cache.rows import Rows

CPU = torch.device("cpu")
COS, SIN = torch.full((3, 4), 0.6), torch.full((3, 4), 0.8)


def turn(cache: Rows, rows: list[int] | None) -> None:
    count = cache.length if rows is None else len(rows)
    device = cache.storage.kv.device
    cache.rotate(COS[:1].expand(count, -1).to(device), SIN[:1].expand(count, -1).to(device), rows)


def mixed(cache: Rows) -> None:
    for n in range(6):
        extend(cache, 5, seed=n)
        cache.drop([n, 8, cache.length - 2])
        turn(cache, [2, 9, 11])


def halfway(cache: Rows) -> None:
    """A forward that ended in the second layer, behind rows that were dropped."""
    cache.drop([1, 11])
    new = torch.ones(1, 2, 5, 8, device=cache.storage.kv.device)
    cache.append(new, new, 0)


WRITES: dict[str, Callable[[Rows], object]] = {
    "drop": lambda cache: cache.drop([1, 4, 10]),
    "drop the end": lambda cache: (cache.drop([10, 11]), extend(cache, 4)),
    "drop all": lambda cache: (cache.drop(range(12)), extend(cache, 3)),
    "rotate": lambda cache: turn(cache, [0, 5, 7]),
    "rotate all": lambda cache: turn(cache, None),
    "append": lambda cache: extend(cache, 7),
    "truncate": lambda cache: (cache.truncate(5), extend(cache, 2)),
    "truncate a layer": lambda cache: (cache.truncate(3, 1), cache.truncate(3), extend(cache, 20)),
    "claim": lambda cache: (cache.truncate(4), cache.claim(6)[:, :, :, 4:10].fill_(7.0)),
    "restore": lambda cache: cache.restore(filled(3, CPU, seed=9).state()),
    "restore none": lambda cache: (cache.restore(filled(0, CPU).state()), extend(cache, 2)),
    "grow": lambda cache: (cache.drop([3]), extend(cache, 600), cache.drop([0, 2])),
    "mixed": mixed,
    "halfway": halfway,
}


@pytest.mark.parametrize("write", WRITES)
def test_a_rollback_gives_back_the_rows(device, write):
    cache = filled(12, device, capacity=None)
    before = held(cache)
    cache.begin()
    WRITES[write](cache)
    cache.rollback()
    assert torch.equal(held(cache), before)
    alone = filled(12, device, capacity=None)
    for each in (cache, alone):
        extend(each, 3, seed=4)
        each.drop([2, 5])
    assert torch.equal(held(cache), held(alone))


@pytest.mark.parametrize("write", WRITES)
def test_what_is_committed_stays(write):
    cache, alone = filled(12, CPU, capacity=None), filled(12, CPU, capacity=None)
    cache.begin()
    for each in (cache, alone):
        WRITES[write](each)
    cache.commit()
    cache.rollback()
    assert cache.lengths == alone.lengths
    cache.truncate(min(cache.lengths))
    alone.truncate(min(alone.lengths))
    assert torch.equal(held(cache), held(alone))


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("writer", ["original", "fork"])
def test_the_other_keeps_its_rows(write, writer):
    cache = filled(12, CPU, capacity=None)
    fork = cache.fork()
    before = held(cache)
    writes, reads = (cache, fork) if writer == "original" else (fork, cache)
    writes.begin()
    WRITES[write](writes)
    assert torch.equal(held(reads), before)
    writes.rollback()
    assert torch.equal(held(writes), before)
    assert torch.equal(held(reads), before)
    extend(reads, 3)
    assert torch.equal(held(writes), before)


@pytest.mark.parametrize("write", WRITES)
def test_a_fork_of_what_is_taken_back_keeps_it(write):
    cache = filled(12, CPU, capacity=None)
    before = held(cache)
    cache.begin()
    WRITES[write](cache)
    cache.truncate(min(cache.lengths))
    fork = cache.fork()
    after = held(fork)
    cache.rollback()
    assert torch.equal(held(fork), after)
    assert torch.equal(held(cache), before)


def test_a_move_that_was_interrupted_is_taken_back(monkeypatch: pytest.MonkeyPatch):
    def interrupted(*given: object) -> None:
        move(*given)
        raise KeyboardInterrupt

    move = moves.move
    cache = filled(12, CPU)
    before = held(cache)
    cache.begin()
    with monkeypatch.context() as patched:
        patched.setattr(moves, "move", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cache.drop([1, 4])
    assert not torch.equal(held(cache), before)
    cache.rollback()
    assert torch.equal(held(cache), before)


def test_a_row_is_copied_once_and_a_new_one_never():
    cache = filled(12, CPU)
    cache.begin()
    mixed(cache)
    turn(cache, None)
    copied = torch.cat([index for index, _ in cache._savepoint._copies])
    assert sorted(copied.tolist()) == list(range(12))
    cache.begin()
    held_now = cache.length
    extend(cache, 8)
    cache.drop(range(held_now, held_now + 6))
    assert not cache._savepoint._copies


def test_a_savepoint_of_an_empty_cache():
    cache = Rows(2, None)
    cache.begin()
    new = torch.ones(1, 2, 3, 8)
    for layer in range(2):
        cache.append(new, new, layer)
    cache.rollback()
    assert cache.length == 0
    cache.rollback()
    assert cache.length == 0
