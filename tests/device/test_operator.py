"""The pruning step on a device: the CPU's bits, and of the kernels one wait for how many are kept."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from elsewhere import NAME
from transformers import Qwen2Config

import streamprune_triton as sp
from streamprune_triton import PruneConfig, PruneResult, StreamPruner, prune, prune_padded
from streamprune_triton.attribution import attribute
from streamprune_triton.cache import CarrierCache
from streamprune_triton.ops import interpreting

CONFIGS = {
    "thresholds": PruneConfig(temporal_threshold=0.8, spatial_threshold=0.5),
    "last_kept": PruneConfig(temporal_threshold=0.8, reference="last_kept", keyframe_interval=2),
    "own mask": PruneConfig(mask=torch.tensor([[True, False, True, False]] * 3), carrier="kept"),
    "budget": PruneConfig(keep_tokens=4),
    "budget of the clip": PruneConfig(keep_tokens=9, scope="clip"),
    "at most": PruneConfig(temporal_threshold=0.8, max_tokens=3, neighbors="survivors"),
}
X = torch.randn(1, 3, 4, 16, generator=torch.Generator().manual_seed(0)) + 0.3 * torch.randn(
    5, 3, 4, 16, generator=torch.Generator().manual_seed(1)
)


def values(result: PruneResult) -> list[torch.Tensor]:
    names = ("tokens", "indices", "keep", "cu_counts", "counts", "carriers")
    state = result.state.state_dict().values()
    return [each.cpu() for each in (*(getattr(result, name) for name in names), *state) if each is not None]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) > 0 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_stream(config: PruneConfig) -> None:
    here, there = StreamPruner(config), StreamPruner(config)
    for x in X.split(2):
        expected, found = here(x), there(x.to(NAME))
        assert found.tokens.device.type == found.state.reference.device.type == NAME
        assert same(values(found), values(expected))
        assert (attribute(found, config) == attribute(expected, config)).all()


@pytest.mark.skipif(not interpreting(), reason="the specification waits: set TRITON_INTERPRET=1 for the kernels")
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_waits(config: PruneConfig, waits: Counter[tuple[str, str]]) -> None:
    """With a capacity none, without one for the count alone."""
    x, state = X.to(NAME), prune(X[:2].to(NAME), config).state
    waits.clear()
    padded = prune_padded(x, config, capacity=30, state=state)
    prune_padded(x, config, capacity=30, state=state, out=padded)
    prune([x, x[:3]], config, state=[state, None])
    assert not waits
    assert prune(x, config, state=state).tokens.device.type == NAME
    assert waits.total() == 1, waits


def test_a_result_is_of_its_own_device() -> None:
    state = prune(X[:2].to(NAME)).state
    with pytest.raises(ValueError, match="state"):
        prune(X, state=state)
    with pytest.raises(ValueError, match="device"):
        prune([X, X.to(NAME)])


def test_gradients() -> None:
    def gradient(x: torch.Tensor) -> torch.Tensor:
        x.requires_grad_()
        result = prune(x, CONFIGS["thresholds"])
        (result.tokens.square().sum() + result.carriers.sum()).backward()
        return x.grad.cpu()

    assert torch.equal(gradient(X.clone()), gradient(X.to(NAME)))


@pytest.mark.parametrize("block", [False, True])
def test_the_mask(block: bool) -> None:
    frames, carriers = torch.tensor([-1, 0, 0, 1, 1, -1]), torch.tensor([0, 0, 1, 0, 1, 0]).bool()
    expected = sp.semantic_mask(frames, carriers, block=block)
    found = sp.semantic_mask(frames.to(NAME), carriers.to(NAME), block=block)
    dense: Any = (lambda mask: mask.to_dense()) if block else (lambda mask: mask)
    assert dense(found).device.type == NAME
    assert torch.equal(dense(found).cpu(), dense(expected))


def test_a_cache_that_drops_and_turns_rows(waits: Counter[tuple[str, str]]) -> None:
    def run(device: str) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        config = Qwen2Config(num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, hidden_size=8)
        cache = CarrierCache(config, capacity=8)
        for layer in range(2):
            kv = torch.randn(2, 1, 2, 8, 4, generator=generator).to(device)
            cache.update(kv[0], kv[1], layer)
        cos, sin = torch.rand(2, 2, 2, generator=generator).to(device)
        waits.clear()
        cache.drop([1, 4])
        cache.rotate(cos, sin, [0, 3])
        return [x for layer in cache.layers for x in (layer.keys, layer.values)]

    expected = run("cpu")
    found = run(NAME)
    assert not waits
    assert all(torch.equal(x.cpu(), y) for x, y in zip(found, expected, strict=True))
