"""Bad input is named, and changes nothing."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from decoders import decoder
from filled import filled, held

from streamprune_triton.cache import CarrierCache, PackedCache
from streamprune_triton.cache.rows import Rows

CPU = torch.device("cpu")


def states(*shape: int, **more) -> torch.Tensor:
    return torch.zeros(shape or (1, 2, 3, 8), **more)


def test_nothing_of_transformers_is_imported_before_it_is_asked_for():
    code = "import sys, streamprune_triton.cache, streamprune_triton.cache.rows; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("keys", "values", "layer", "message"),
    [
        (states(2, 2, 3, 8), states(2, 2, 3, 8), 0, r"key_states must have shape \(1, .*one sequence.* \(2, 2, 3, 8\)"),
        (states(2, 3, 8), states(2, 3, 8), 0, r"key_states must have shape .* got \(2, 3, 8\)"),
        (states(), states(1, 2, 2, 8), 0, r"value_states must have the keys' shape .* got \(1, 2, 2, 8\)"),
        (states(1, 3, 3, 8), states(1, 3, 3, 8), 0, r"key_states must have \(heads, head_dim\) \(2, 8\), got \(3, 8\)"),
        (states(1, 2, 3, 4), states(1, 2, 3, 4), 0, r"key_states must have \(heads, head_dim\) \(2, 8\), got \(2, 4\)"),
        (states(dtype=torch.bfloat16), states(dtype=torch.bfloat16), 0, r"key_states must be torch.float32 as the"),
        (states(), states(dtype=torch.float16), 0, r"value_states must be torch.float32 .* got torch.float16"),
        (states(device="meta"), states(), 0, r"key_states must be on cpu as the cache is, got meta"),
        (states(), states(), 2, r"layer_idx must be in 0 \.\. 1, got 2"),
        (states(), states(), -1, r"layer_idx must be in 0 \.\. 1, got -1"),
        (states(1, 2, 61, 8), states(1, 2, 61, 8), 1, r"capacity must be at least 65 for these rows, got 64: drop"),
        (states(requires_grad=True), states(), 0, r"key_states must not require grad"),
        (states(), states(requires_grad=True), 0, r"key_states must not require grad"),
    ],
)
def test_new_rows(keys, values, layer, message):
    cache = filled(4, CPU)
    before = held(cache)
    with pytest.raises(ValueError, match=message):
        cache.append(keys, values, layer)
    assert cache.lengths == [4, 4]
    assert torch.equal(held(cache), before)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([4], ValueError, r"rows must be in 0 \.\. 3, got 4 \.\. 4"),
        ([0, -1], ValueError, r"rows must be in 0 \.\. 3, got -1 \.\. 0"),
        ([1, 2, 1], ValueError, r"rows must be distinct"),
        ([[1, 2]], ValueError, r"rows must have shape \(R,\), got \(1, 2\)"),
        ([1.5], TypeError, r"rows must be integers on the host, got float64"),
        (np.array([True, False]), TypeError, r"rows must be integers on the host, got bool"),
        (torch.tensor([1]), TypeError, r"rows must be integers on the host, got a tensor"),
    ],
)
@pytest.mark.parametrize("method", ["drop", "keep", "rotate"])
def test_row_numbers(method, rows, error, message):
    cache = filled(4, CPU)
    before = held(cache)
    tables = (torch.ones(len(rows), 4), torch.ones(len(rows), 4)) if method == "rotate" else ()
    with pytest.raises(error, match=message):
        getattr(cache, method)(*tables, rows)
    assert torch.equal(held(cache), before)


@pytest.mark.parametrize(
    ("cos", "sin", "message"),
    [
        (states(3, 4), states(3, 4), r"cos must have shape \(4, F\) with F at most 4, got \(3, 4\)"),
        (states(4, 5), states(4, 5), r"cos must have shape .* got \(4, 5\)"),
        (states(4, 4), states(4, 3), r"sin must have the shape of cos \(4, 4\), got \(4, 3\)"),
        (states(4, 4).double(), states(4, 4), r"cos must be float32 on cpu, got torch.float64 on cpu"),
        (states(4, 4), states(4, 4, device="meta"), r"sin must be float32 on cpu, got torch.float32 on meta"),
    ],
)
def test_tables(cos, sin, message):
    cache = filled(4, CPU)
    before = held(cache)
    with pytest.raises(ValueError, match=message):
        cache.rotate(cos, sin)
    assert torch.equal(held(cache), before)


@pytest.mark.parametrize(
    ("keys", "values", "message"),
    [
        (states(3, 2, 5, 8), states(3, 2, 5, 8), r"state\['keys'\] must have shape \(2, heads, L, head_dim\), got"),
        (states(2, 2, 5, 8), states(2, 2, 4, 8), r"state\['values'\] must be .* as the keys"),
        (states(2, 2, 5, 6), states(2, 2, 5, 6), r"state\['keys'\] must have \(heads, head_dim\) \(2, 8\)"),
        (states(2, 2, 65, 8), states(2, 2, 65, 8), r"capacity must be at least 65"),
        (states(2, 2, 5, 8).half(), states(2, 2, 5, 8).half(), r"state\['keys'\] must be torch.float32"),
    ],
)
def test_states(keys, values, message):
    cache = filled(4, CPU)
    before = held(cache)
    with pytest.raises(ValueError, match=message):
        cache.restore({"keys": keys, "values": values})
    assert torch.equal(held(cache), before)


def test_what_is_no_state_at_all():
    cache = filled(4, CPU)
    before = held(cache)
    for state in ({}, {"keys": before[:, 0]}):
        with pytest.raises(ValueError, match="state must have keys and values, got"):
            cache.restore(state)
    with pytest.raises(TypeError, match=r"^state must be a dict of tensors, got NoneType$"):
        cache.restore(None)
    assert torch.equal(held(cache), before)


def test_what_is_no_configuration():
    with pytest.raises(TypeError, match=r"config must be a model's configuration, as model.config, got NoneType"):
        CarrierCache(None)


@pytest.mark.parametrize(
    ("capacity", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_capacities(capacity, error):
    with pytest.raises(error, match="capacity must be"):
        Rows(2, capacity)
    assert type(Rows(2, np.int64(5)).capacity) is int


def test_a_cache_is_not_pickled():
    cache = CarrierCache(decoder("llama")[1])
    with pytest.raises(TypeError, match=r"^a CarrierCache cannot be pickled: save its state\(\), and restore it"):
        pickle.dumps(cache)
    assert copy.copy(cache).get_seq_length() == copy.deepcopy(cache).get_seq_length() == 0


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"dtype": "bfloat16"}, TypeError, "dtype must be a torch.dtype, as torch.bfloat16, or None, got 'bfloat16'"),
        ({"device": "gpu"}, ValueError, "device must be one that is there, as 'cpu' or 'cuda', got 'gpu': "),
        ({"device": "cpu:x"}, ValueError, "device must be one that is there, as 'cpu' or 'cuda', got 'cpu:x': "),
        ({"device": []}, ValueError, "device must be one that is there, as 'cpu' or 'cuda', got []: "),
    ],
)
def test_what_no_memory_can_be(given, error, message):
    with pytest.raises(error) as caught:
        CarrierCache(decoder("llama")[1], 4, **given)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_layers_that_see_a_window_are_refused():
    with pytest.raises(ValueError, match=r"config must have layers of full_attention only, got .*sliding_attention"):
        CarrierCache(decoder("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1)[1])


def test_what_only_batches_need_is_refused():
    cache = CarrierCache(decoder("llama")[1], 8)
    for call in (
        lambda: cache.reorder_cache(torch.tensor([0])),
        lambda: cache.batch_repeat_interleave(2),
        lambda: cache.batch_select_indices(torch.tensor([0])),
    ):
        with pytest.raises(ValueError, match="one sequence"):
            call()


def test_lengths():
    cache = CarrierCache(decoder("llama")[1], 8)
    for layer in range(3):
        cache.update(states(1, 2, 5, 16), states(1, 2, 5, 16), layer)
    with pytest.raises(ValueError, match="length must be at least 0, got -1"):
        cache.truncate(-1)
    for method, name in ((cache.truncate, "length"), (cache.reserve, "rows")):
        with pytest.raises(TypeError, match=f"^{name} must be an integer, got float$"):
            method(1.5)
    with pytest.raises(ValueError, match=r"^rows must be at least 0, got -1$"):
        cache.reserve(-1)
    assert cache.get_seq_length() == 5
    cache.truncate(np.int64(5))
    for length, left in ((9, 5), (0, 5), (4, 4), (-1, 3), (-7, 0)):
        cache.crop(length)
        assert cache.get_seq_length() == left
    cache.update(states(1, 2, 5, 16), states(1, 2, 5, 16), 0)
    assert repr(cache) == "CarrierCache(layers=3, rows=0-5, capacity=8)"
    cache.reset()
    assert cache.get_seq_length() == 0


def test_bytes():
    config = decoder("llama")[1]
    cache = CarrierCache(config, 8)
    assert (cache.nbytes, cache.allocated_bytes) == (0, 0)
    cache = CarrierCache(config, 8, device="cpu", dtype=torch.bfloat16)
    row = 3 * 2 * 2 * 16 * 2  # layers, keys and values, heads, head_dim, bytes
    assert (cache.nbytes, cache.allocated_bytes) == (0, 8 * row)
    for layer in range(3):
        cache.update(*states(2, 1, 2, 5, 16, dtype=torch.bfloat16), layer)
    assert (cache.nbytes, cache.allocated_bytes) == (5 * row, 8 * row)
    cache.drop([0, 4])
    assert (cache.nbytes, cache.allocated_bytes) == (3 * row, 8 * row)


def test_packed_sequences():
    config = decoder("llama")[1]
    a, b = CarrierCache(config, 4), CarrierCache(config, 2)
    for caches, sizes, message in (
        ([a, a], [1, 1], "caches must be different"),
        ([], [], "caches must be different"),
        ([a, b], [1], "sizes must be 2 numbers"),
        ([a, b], [1, -1], "sizes must be 2 numbers"),
        ([a, CarrierCache(decoder("llama", num_hidden_layers=2)[1])], [1, 1], "caches must have as many layers"),
    ):
        with pytest.raises(ValueError, match=message):
            PackedCache(caches, sizes)
    with pytest.raises(ValueError, match=r"key_states must have shape \(1, heads, 4, head_dim\)"):
        PackedCache([a, b], [3, 1]).update(states(1, 2, 3, 16), states(1, 2, 3, 16), 0)
    with pytest.raises(ValueError, match="capacity must be at least 3"):  # of the second: the first is as it was
        PackedCache([a, b], [1, 3]).update(states(1, 2, 4, 16), states(1, 2, 4, 16), 0)
    assert (a.get_seq_length(), b.get_seq_length()) == (0, 0)
