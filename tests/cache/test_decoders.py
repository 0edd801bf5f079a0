"""In decoders of transformers the cache gives what DynamicCache gives, also after rows left, turned or were packed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from decoders import NAMES, axes, decoder, forward

from streamprune_triton.cache import CarrierCache, PackedCache, Rotary
from streamprune_triton.models import tiny

CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.mark.parametrize("capacity", [None, 24])
@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_those_with_a_dynamic_cache(name, capacity):
    from transformers import DynamicCache

    model, config = decoder(name)
    caches = [DynamicCache(), CarrierCache(config, capacity)]
    for n, count in enumerate((7, 1, 1, 5)):
        x = torch.randn(count, 64, generator=torch.Generator().manual_seed(n))
        expected, got = (forward(model, x, cache) for cache in caches)
        torch.testing.assert_close(got, expected, **CLOSE)
    assert caches[0].get_seq_length() == caches[1].get_seq_length() == caches[1].get_seq_length(2) == 14
    for theirs, ours in zip(caches[0].layers, caches[1].layers, strict=True):
        torch.testing.assert_close(ours.keys, theirs.keys, **CLOSE)
        torch.testing.assert_close(ours.values, theirs.values, **CLOSE)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_vision_language_model_generates_the_same(attention):
    from transformers import DynamicCache

    model, _ = tiny.qwen2_5_vl()
    model.set_attn_implementation(attention)
    ids = torch.randint(0, 200, (1, 9), generator=torch.Generator().manual_seed(0))
    cache = CarrierCache(model.config, 40, device="cpu", dtype=torch.float32)
    same = {"do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8}
    expected = model.generate(ids, past_key_values=DynamicCache(), **same)
    assert torch.equal(model.generate(ids, past_key_values=cache, **same), expected)
    assert cache.get_seq_length() == 16
    cache.crop(9)
    again = model.generate(expected[:, :10], past_key_values=cache, **same)
    assert torch.equal(again[:, :17], expected)


def test_llama_generates_the_same():
    from transformers import DynamicCache

    model, config = decoder("llama")
    ids = torch.tensor([[5, 9, 33, 7]])
    same = {"do_sample": False, "max_new_tokens": 12, "min_new_tokens": 12}
    expected = model.generate(ids, past_key_values=DynamicCache(), **same)
    assert torch.equal(model.generate(ids, past_key_values=CarrierCache(config), **same), expected)


def test_beam_search_is_refused():
    model, config = decoder("llama")
    with pytest.raises(ValueError, match=r"one sequence"):
        model.generate(torch.tensor([[5, 9]]), past_key_values=CarrierCache(config), num_beams=2, max_new_tokens=3)


@pytest.mark.parametrize("name", NAMES)
def test_a_decoder_sees_the_rows_that_are_left(name):
    """Dropping rows equals never showing them: the same forward with the rows masked gives the same."""
    from transformers import DynamicCache

    model, config = decoder(name)
    x = torch.randn(13, 64, generator=torch.Generator().manual_seed(1))
    positions = torch.arange(13).expand(axes(name), 13)
    gone = [0, 3, 4, 8]
    masked, cache = DynamicCache(), CarrierCache(config, 12)
    for each in (masked, cache):
        forward(model, x[:10], each, positions[:, :10])
    cache.drop(gone)
    mask = torch.ones(1, 1, 3, 13, dtype=torch.bool).tril(10)
    mask[..., gone] = False
    expected = forward(model, x[10:], masked, positions[:, 10:], mask)
    mask = torch.ones(1, 1, 3, 9, dtype=torch.bool).tril(6)
    torch.testing.assert_close(forward(model, x[10:], cache, positions[:, 10:], mask), expected, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_turned_keys_are_those_of_other_positions(name):
    """In the first layer, whose input has no position in it yet, every row moves on its own."""
    model, config = decoder(name)
    rotary = Rotary.of(model if hasattr(model, "rotary_emb") else model.model)
    assert rotary.axes == axes(name)
    x = torch.randn(6, 64, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    positions = torch.randint(60, 120, (axes(name), 6), generator=generator)
    shift = torch.randint(-60, 60, (axes(name), 6), generator=generator)
    moved, cache = CarrierCache(config, 8), CarrierCache(config, 8)
    forward(model, x, cache, positions)
    forward(model, x, moved, positions + shift)
    cache.rotate(*rotary.tables(shift), pairs=rotary.pairs)
    torch.testing.assert_close(cache.layers[0].keys, moved.layers[0].keys, **CLOSE)
    assert torch.equal(cache.layers[0].values, moved.layers[0].values)
    cache.rotate(*rotary.tables(-shift[:, [4, 1]]), rows=[4, 1], pairs=rotary.pairs)
    back = CarrierCache(config, 8)
    forward(model, x, back, positions)
    torch.testing.assert_close(cache.layers[0].keys[:, :, [1, 4]], back.layers[0].keys[:, :, [1, 4]], **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_a_uniform_shift_changes_no_answer(name):
    model, config = decoder(name)
    rotary = Rotary.of(model if hasattr(model, "rotary_emb") else model.model)
    x = torch.randn(9, 64, generator=torch.Generator().manual_seed(1))
    positions = torch.arange(9).expand(axes(name), 9)
    shift = torch.tensor([[100], [40], [7]][: axes(name)])
    cache = CarrierCache(config, 16)
    forward(model, x[:6], cache, positions[:, :6])
    turned = cache.fork()
    turned.rotate(*rotary.tables(shift.expand(-1, 6)), pairs=rotary.pairs)
    expected = forward(model, x[6:], cache, positions[:, 6:])
    torch.testing.assert_close(forward(model, x[6:], turned, positions[:, 6:] + shift), expected, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_packed_sequences_read_as_they_would_alone(name):
    model, config = decoder(name)
    sizes, rounds = ([4, 1, 3], [1, 1, 0], [2, 5, 1]), 3
    alone = [CarrierCache(config, 20) for _ in range(3)]
    packed = [CarrierCache(config, 20) for _ in range(3)]
    for n in range(rounds):
        seeds = [torch.Generator().manual_seed(10 * n + b) for b in range(3)]
        x = [torch.randn(size, 64, generator=seed) for size, seed in zip(sizes[n], seeds, strict=True)]
        at = [torch.arange(c.get_seq_length(), c.get_seq_length() + len(e)) for c, e in zip(alone, x, strict=True)]
        together = PackedCache(packed, sizes[n])
        mask = _mask(together.spans(), sizes[n])
        positions = torch.cat(at).expand(axes(name), -1)
        got = forward(model, torch.cat(x), together, positions, mask).split(sizes[n])
        assert together.get_seq_length() == sum(cache.get_seq_length() for cache in packed) == mask.shape[-1]
        for b in range(3):
            if len(x[b]):
                expected = forward(model, x[b], alone[b], at[b].expand(axes(name), -1))
                torch.testing.assert_close(got[b], expected, **CLOSE)
        if n == 0:
            for cache in (*packed, *alone):
                cache.drop(np.array([0]))


def _mask(spans: list[tuple[int, int]], sizes: list[int]) -> torch.Tensor:
    mask = torch.zeros(1, 1, sum(sizes), spans[-1][1], dtype=torch.bool)
    row = 0
    for (first, last), size in zip(spans, sizes, strict=True):
        mask[0, 0, row : row + size, first:last] = torch.ones(size, last - first).tril(last - first - size).bool()
        row += size
    return mask


def test_gradients_are_refused_and_nothing_is_written():
    model, config = decoder("llama")
    cache = CarrierCache(config, 8)
    with pytest.raises(ValueError, match=r"key_states must not require grad"):
        model(input_ids=torch.tensor([[3, 4]]), past_key_values=cache)
    assert cache.get_seq_length() == 0
    model.requires_grad_(False)
    model(input_ids=torch.tensor([[3, 4]]), past_key_values=cache)
    assert cache.get_seq_length() == 2


def test_a_forward_over_the_capacity_leaves_a_usable_cache():
    model, config = decoder("qwen2")
    x = torch.randn(9, 64, generator=torch.Generator().manual_seed(3))
    cache, expected = CarrierCache(config, 8), CarrierCache(config, 9)
    for each in (cache, expected):
        forward(model, x[:6], each)
    with pytest.raises(ValueError, match=r"capacity must be at least 9 .* got 8"):
        forward(model, x[6:], cache)
    cache.truncate(6)
    assert torch.equal(forward(model, x[6:8], cache), forward(model, x[6:8], expected))
