"""Forks share one memory, and copy their rows exactly when one would write over another's."""

from __future__ import annotations

import copy
import gc
import threading
import time

import pytest
import torch
from decoders import decoder, forward
from filled import extend, filled, held

from streamprune_triton.cache import CarrierCache, PackedCache
from streamprune_triton.cache.rows import Rows
from streamprune_triton.cache.storage import Storage

CPU = torch.device("cpu")


def together(*caches: Rows) -> bool:
    """Whether they live in one memory."""
    return len({id(cache.storage) for cache in caches}) == 1


WRITES = {
    "drop": lambda cache: cache.drop([1]),
    "rotate": lambda cache: cache.rotate(torch.zeros(1, 4), torch.ones(1, 4), [2]),
    "append": lambda cache: (cache.truncate(5), extend(cache, 2)),
    "restore": lambda cache: cache.restore(filled(3, CPU, seed=9).state()),
}


@pytest.mark.parametrize("writer", ["original", "fork"])
@pytest.mark.parametrize("write", WRITES)
def test_the_other_keeps_its_rows(write, writer):
    cache = filled(8, CPU)
    fork = cache.fork()
    before = held(cache)
    assert together(cache, fork)
    writes, reads = (cache, fork) if writer == "original" else (fork, cache)
    alone = filled(8, CPU)
    WRITES[write](writes)
    WRITES[write](alone)
    assert torch.equal(held(writes), held(alone))
    assert torch.equal(held(reads), before)
    assert not together(cache, fork)
    memory = reads.storage
    WRITES[write](reads)
    assert reads.storage is memory, "the last one in a memory copied"
    assert torch.equal(held(reads), held(alone))


def test_reading_rolling_back_and_dropping_the_end_copy_nothing():
    cache = filled(8, CPU)
    fork = cache.fork()
    before = held(cache)
    fork.view(0)
    fork.state()
    assert fork.drop([6, 7]).tolist() == list(range(6))
    fork.truncate(3)
    fork.drop([])
    assert together(cache, fork)
    assert torch.equal(held(cache), before)


def test_a_fork_appends_behind_the_others_rows_in_the_same_memory():
    cache = filled(8, CPU)
    fork = cache.fork()
    extend(fork, 4, seed=5)
    assert together(cache, fork)
    extend(cache, 2, seed=6)  # would write over the fork's rows
    assert not together(cache, fork)
    alone = filled(8, CPU)
    extend(alone, 4, seed=5)
    assert torch.equal(held(fork), held(alone))
    alone.truncate(8)
    extend(alone, 2, seed=6)
    assert torch.equal(held(cache), held(alone))


def test_a_forgotten_fork_costs_nothing():
    cache = filled(8, CPU)
    storage = cache.storage
    gc.disable()  # a fork goes with its last name, not with the next collection
    try:
        fork = cache.fork()
        extend(fork, 4)
        del fork
        extend(cache, 4)
        cache.drop([0])
    finally:
        gc.enable()
    assert cache.storage is storage


def test_forgotten_caches_leave_no_cycle():
    model, config = decoder("llama")
    cache = CarrierCache(config, 16)
    forward(model, torch.ones(3, 64), cache)
    storage = cache._rows.storage
    gc.disable()
    try:
        fork = cache.fork()
        forward(model, torch.ones(2, 64), fork)
        assert len(storage.sharers) == 2
        del fork
        assert len(storage.sharers) == 1
    finally:
        gc.enable()


def test_a_fork_of_a_fork_and_a_deep_copy_are_forks():
    cache = filled(8, CPU)
    others = [cache.fork().fork(), copy.deepcopy(cache)]
    before = held(cache)
    assert together(cache, *others)
    for n, each in enumerate(others):
        each.drop([n])
        assert not together(cache, each)
    assert torch.equal(held(cache), before)


def test_a_deep_copy_of_a_cache_is_whole():
    model, config = decoder("llama")
    cache = CarrierCache(config, 16)
    forward(model, torch.ones(3, 64), cache)
    other = copy.deepcopy(cache)
    assert other.layers[0].get_seq_length() == 3
    forward(model, torch.ones(2, 64), other)
    assert (cache.get_seq_length(2), other.get_seq_length(2)) == (3, 5)
    assert cache.layers[0].get_seq_length() == 3


def test_a_fork_of_an_empty_cache_has_a_memory_of_its_own():
    cache = Rows(2, 16)
    fork = cache.fork()
    new = torch.ones(1, 2, 3, 4)
    cache.append(new, new, 0)
    fork.append(2 * new, new, 0)
    assert cache.view(0)[0].eq(1).all()


def test_a_growing_fork_takes_only_its_own_rows():
    cache = filled(200, CPU, capacity=None)
    fork = cache.fork()
    extend(fork, 100)
    assert fork.storage.capacity == 512
    assert cache.storage.capacity == 256
    assert len(cache.storage.sharers) == 1


@pytest.mark.parametrize("seed", range(8))
def test_forks_in_threads_end_as_they_would_one_after_the_other(seed, monkeypatch):
    """Whoever writes first, each thread ends with the rows that it would have alone."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")  # the interpreter is for one thread

    def work(cache: Rows, n: int) -> None:
        start.wait()
        for step in range(20):
            extend(cache, 3 + n, seed=100 * n + step)
            cache.drop([(7 * step + n) % 8, 8 + n])
            cache.rotate(torch.full((1, 4), 0.6), torch.full((1, 4), 0.8), [(step + n) % 8])

    start = threading.Barrier(4)
    cache = filled(60, CPU, capacity=400, layers=3, dim=8, seed=seed)
    forks = [cache, *(cache.fork() for _ in range(3))]
    threads = [threading.Thread(target=work, args=(fork, n)) for n, fork in enumerate(forks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    start = threading.Barrier(1)
    for n, fork in enumerate(forks):
        alone = filled(60, CPU, capacity=400, layers=3, dim=8, seed=seed)
        work(alone, n)
        assert torch.equal(held(fork), held(alone)), n


@pytest.mark.parametrize("row", range(8))
def test_rows_behind_the_others_are_written_without_a_copy(row):
    """The other holds 4 rows: 0 to 3 are its own, too."""
    cache = filled(8, CPU)
    fork = cache.fork()
    fork.truncate(4)
    before = held(fork)
    cache.rotate(torch.zeros(1, 4), torch.ones(1, 4), [row])
    assert together(cache, fork) == (row >= 4)
    assert torch.equal(held(fork), before)


@pytest.mark.parametrize("write", ["drop", "rotate"])
def test_one_row_of_the_others_among_many_is_enough_for_a_copy(write):
    cache = filled(12, CPU)
    fork = cache.fork()
    fork.truncate(4)
    before = held(fork)
    if write == "drop":
        cache.drop([3, 6])
    else:
        cache.rotate(torch.zeros(2, 4), torch.ones(2, 4), [6, 3])
    assert torch.equal(held(fork), before)


def test_a_forward_halfway_through_the_layers_is_safe_from_the_others():
    cache = filled(4, CPU, layers=2)
    fork = cache.fork()
    new = torch.ones(1, 2, 2, 8)
    fork.append(new, new, 0)
    extend(cache, 2)
    fork.append(new, new, 1)
    assert held(fork)[:, :, :, 4:].eq(1).all()


def test_forks_read_on_in_one_packed_forward():
    model, config = decoder("llama")
    x = torch.randn(9, 64, generator=torch.Generator().manual_seed(0))
    cache = CarrierCache(config, 16)
    forward(model, x[:5], cache)
    forks = [cache.fork(), cache.fork()]
    packed = PackedCache(forks, [2, 2])
    mask = torch.zeros(1, 1, 4, 14, dtype=torch.bool)
    mask[0, 0, :2, :7] = mask[0, 0, 2:, 7:] = torch.ones(2, 7).tril(5).bool()
    got = forward(model, x[5:], packed, torch.tensor([[5, 6, 5, 6]]), mask)
    for n in range(2):
        expected = forward(model, x[5 + 2 * n : 7 + 2 * n], cache.fork())
        torch.testing.assert_close(got[2 * n : 2 * n + 2], expected, rtol=0, atol=1e-5)
    assert cache.get_seq_length() == 5


class SlowLock:
    """A lock that lets others in before its holder does the next thing."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()
        time.sleep(0.05)


def test_two_that_append_at_once_never_write_the_same_rows(monkeypatch):
    """Between the question who is there and the answer's use, nobody else may ask."""

    def slow(storage: Storage, first: int, but: Rows) -> bool:
        answer = wanted(storage, first, but)
        time.sleep(0.05)
        return answer

    def work(cache: Rows, n: int) -> None:
        extend(cache, 3, seed=n)

    wanted = Storage.wanted
    monkeypatch.setattr(Storage, "wanted", slow)
    cache = filled(8, CPU, layers=1)
    caches = [cache, cache.fork()]
    cache.storage.lock = SlowLock()
    threads = [threading.Thread(target=work, args=(each, n)) for n, each in enumerate(caches)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, each in enumerate(caches):
        alone = filled(8, CPU, layers=1)
        work(alone, n)
        assert torch.equal(held(each), held(alone)), n
