"""Rows are appended, dropped, turned and rolled back in place, by PyTorch and by the kernels alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from features import examples
from filled import extend, filled, held
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamprune_triton.cache.rows import FIRST_CAPACITY, Rows

hypothetical = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=examples(80),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@st.composite
def departures(draw: st.DrawFn) -> tuple[int, list[int]]:
    """How many rows there are, and which leave, in any order."""
    length = draw(st.integers(0, 60))
    chosen = draw(st.lists(st.booleans(), min_size=length, max_size=length))
    return length, draw(st.permutations([n for n in range(length) if chosen[n]]))


def assert_moved(before: torch.Tensor, cache: Rows, source: np.ndarray, left: set[int]) -> None:
    assert source.dtype == np.int64
    assert torch.equal(held(cache), before[:, :, :, source])
    assert sorted(source.tolist()) == sorted(left)
    stayed = [n for n in sorted(left) if n < len(left)]
    assert source[stayed].tolist() == stayed, "a row was moved that could have stayed"


@hypothetical
@given(case=departures(), dtype=st.sampled_from(DTYPES), dim=st.sampled_from([1, 8, 20]))
def test_dropped_rows_are_replaced_by_rows_from_the_end(device, case, dtype, dim):
    length, rows = case
    cache = filled(length, device, dtype=dtype, dim=dim)
    before = held(cache)
    assert_moved(before, cache, cache.drop(rows), set(range(length)) - set(rows))


@hypothetical
@given(case=departures())
def test_keep_drops_the_others(device, case):
    length, rows = case
    cache = filled(length, device)
    before = held(cache)
    assert_moved(before, cache, cache.keep(np.array(rows, np.int32)), set(rows))


def test_a_move_keeps_every_bit(device):
    cache = filled(5, device, dtype=torch.bfloat16)
    bits = torch.arange(2**16 - 256, 2**16, dtype=torch.int32).to(torch.int16)  # negative NaNs of every payload
    assert cache.storage is not None
    kv = cache.storage.kv.view(torch.int16)
    kv[:, :, :, 4] = bits[: kv[:, :, :, 4].numel()].view_as(kv[:, :, :, 4]).to(device)
    expected = kv[:, :, :, 4].clone()
    assert cache.drop([1]).tolist() == [0, 4, 2, 3]
    assert torch.equal(kv[:, :, :, 1], expected)


@hypothetical
@given(case=departures(), dtype=st.sampled_from(DTYPES), f=st.integers(1, 5), everything=..., pairs=...)
def test_keys_turn_and_nothing_else_changes(device, case, dtype, f, everything: bool, pairs: bool):
    length, some = case
    rows = list(range(length)) if everything else some
    cache = filled(length, device, dtype=dtype, dim=10)
    before = held(cache)
    angle = torch.linspace(-3, 4, len(rows) * f).view(len(rows), f)
    cache.rotate(angle.cos().to(device), angle.sin().to(device), None if everything else rows, pairs)

    first, second = (slice(0, 2 * f, 2), slice(1, 2 * f, 2)) if pairs else (slice(f), slice(f, 2 * f))
    k1, k2 = before[0][..., rows, first].double(), before[0][..., rows, second].double()
    turned = torch.empty(*k1.shape[:-1], 2 * f, dtype=torch.float64)
    turned[..., first] = k1 * angle.cos() - k2 * angle.sin()
    turned[..., second] = k2 * angle.cos() + k1 * angle.sin()
    after = held(cache)
    allowed = {torch.float32: 1e-6, torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}[dtype]
    torch.testing.assert_close(after[0][..., rows, : 2 * f].double(), turned, rtol=0, atol=allowed)
    after[0][..., rows, : 2 * f] = before[0][..., rows, : 2 * f]
    assert torch.equal(after, before)


def test_memory_is_flat_over_thousands_of_rounds(device):
    cache = filled(20, device, layers=1, heads=1, dim=4, capacity=32)
    assert cache.storage is not None
    storage, pointer = cache.storage, cache.storage.kv.data_ptr()
    order = np.arange(20)
    written = held(cache)[0, 0, 0]
    generator = np.random.default_rng(0)
    for n in range(100 * examples(30)):
        extend(cache, 12, seed=n)
        written = torch.cat([written, held(cache)[0, 0, 0, 20:]])
        order = np.concatenate([order, np.arange(len(written) - 12, len(written))])
        order = order[cache.drop(generator.permutation(32)[:12])]
        if n % 100 == 99:
            assert torch.equal(held(cache)[0, 0, 0], written[order])
            written, order = written[order], np.arange(20)
    assert cache.storage is storage
    assert cache.storage.kv.data_ptr() == pointer


def test_a_layer_over_the_capacity_leaves_the_rows_as_they_were(device):
    cache = filled(5, device, layers=3, capacity=8)
    before = held(cache)
    new = torch.randn(1, 2, 2, 8, device=device)
    cache.append(new, new, 0)
    cache.append(new, new, 1)
    with pytest.raises(ValueError, match=r"capacity must be at least 9 .* got 8"):
        cache.append(new, new, 1)
    assert cache.lengths == [7, 7, 5]
    with pytest.raises(ValueError, match=r"truncate\(5\)"):
        cache.drop([0])
    cache.truncate(5)
    assert torch.equal(held(cache), before)


@pytest.mark.parametrize("capacity", [None, 3 * FIRST_CAPACITY])
def test_rows_grow_without_a_bound_and_never_move_with_one(capacity):
    cache = filled(7, torch.device("cpu"), capacity=capacity)
    before = held(cache)
    assert cache.storage is not None
    pointer = cache.storage.kv.data_ptr()
    extend(cache, FIRST_CAPACITY)
    assert (cache.storage.kv.data_ptr() == pointer) == (capacity is not None)
    assert cache.storage.capacity == (capacity or 2 * FIRST_CAPACITY)
    assert torch.equal(held(cache)[:, :, :, :7], before)
    assert len(cache.storage.sharers) == 1


@pytest.mark.parametrize("into", ["same", "fresh", "lazy"])
def test_a_restored_cache_goes_on_bit_for_bit(device, into):
    cache = filled(9, device)
    cache.drop([0, 3])
    state = {name: tensor.cpu() for name, tensor in cache.state().items()}
    assert [tuple(tensor.shape) for tensor in state.values()] == [(2, 2, 7, 8)] * 2
    other = {"same": cache, "fresh": filled(2, device), "lazy": Rows(2, 64, device=device)}[into]
    expected = cache.fork()
    other.restore(state)
    for each in (expected, other):
        extend(each, 3)
        each.drop([2])
    assert torch.equal(held(other), held(expected))
    assert len(held(other)[0, 0, 0]) == 9


def test_an_empty_cache_is_saved_and_restored():
    cache = filled(4, torch.device("cpu"))
    cache.restore(Rows(2, 64).state())
    assert cache.lengths == [0, 0]


def test_rows_written_in_inference_mode_may_be_written_outside():
    with torch.inference_mode():
        cache = Rows(1, 8)
        cache.append(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), 0)
    cache.append(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), 0)
    cache.drop([0])
    assert held(cache).eq(1).all()
    assert cache.lengths == [5]


def test_memory_taken_ahead_is_not_taken_again():
    ahead, behind = Rows(2, None, device=torch.device("cpu")), filled(7, torch.device("cpu"), capacity=None)
    before = held(behind)
    ahead.reserve(2 * FIRST_CAPACITY + 1)
    ahead.restore(behind.state())
    behind.reserve(2 * FIRST_CAPACITY + 1)
    for cache in (ahead, behind):
        assert cache.storage is not None
        storage = cache.storage
        assert storage.capacity == 2 * FIRST_CAPACITY + 1
        cache.reserve(2 * FIRST_CAPACITY)
        extend(cache, 2 * FIRST_CAPACITY - 6)
        assert cache.storage is storage
        assert torch.equal(held(cache)[:, :, :, :7], before)
    with pytest.raises(ValueError, match=r"rows must be at most the capacity 8, got 9"):
        Rows(2, 8).reserve(9)
    Rows(2, 8).reserve(8)
