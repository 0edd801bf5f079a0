"""Random streams with random options against the oracle: shapes, dtypes, strides and hostile values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from features import (
    HOSTILE,
    LAYOUTS,
    depths,
    examples,
    features,
    field,
    grids,
    laid_out,
    on_the_edge,
    options,
    spoil,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracle import OracleState
from tolerances import CARRIER, assert_agrees, padded

import streamprune_triton as sp


@st.composite
def calls(draw: st.DrawFn) -> tuple[torch.Tensor, dict[str, Any]]:
    """The frames of a stream in some layout, and options."""
    grid, depth = draw(grids()), draw(depths())
    x = laid_out(draw(features(grid, depth)), draw(st.sampled_from(LAYOUTS)))
    assume(not on_the_edge(x).any())
    return x, draw(options(*grid))


@given(call=calls())
@settings(max_examples=examples(250))
def test_any_call(backend: str, device: torch.device, call: tuple) -> None:
    """One call that begins a stream."""
    x, chosen = call
    x = x.to(device)
    assert_agrees(sp.prune(x, sp.PruneConfig(**chosen), backend=backend), x, chosen)


@given(call=calls(), cut=st.floats(0, 1), seed=st.integers(0, 99), kinds=st.lists(st.sampled_from(HOSTILE), max_size=2))
@settings(max_examples=examples(120))
def test_any_second_call(
    backend: str, device: torch.device, call: tuple, cut: float, seed: int, kinds: list[str]
) -> None:
    """A call that goes on with a stream."""
    x, chosen = call
    before = spoil(field((2, *x.shape[1:]), redundancy=0.7, seed=seed, dtype=x.dtype), kinds, seed)
    x, before, config = x.to(device), before.to(device), sp.PruneConfig(**chosen)
    first = sp.prune(before, config, backend=backend)
    told = assert_agrees(first, before, chosen)
    assert_agrees(sp.prune(x, config, state=first.state, backend=backend), x, chosen, state=told.state)


@given(call=calls(), share=st.floats(0, 1.1))
@settings(max_examples=examples(100))
def test_any_capacity(backend: str, device: torch.device, call: tuple, share: float) -> None:
    """prune_padded with room for some of the tokens."""
    x, chosen = call
    x = x.to(device)
    capacity = int(share * x.shape[0] * x.shape[1] * x.shape[2])
    result = padded(x, sp.PruneConfig(**chosen), backend=backend, capacity=capacity)
    assert result.tokens.shape == (capacity, x.shape[3])
    assert_agrees(result, x, chosen, capacity=capacity)


@given(data=st.data(), depth=depths(), count=st.integers(1, 3))
@settings(max_examples=examples(60))
def test_any_batch(backend: str, device: torch.device, data: st.DataObject, depth: int, count: int) -> None:
    """Ragged lists, each stream against the oracle, over two calls."""
    sizes = data.draw(st.lists(grids(large=False), min_size=count, max_size=count))
    chosen = data.draw(options(2, 2))
    if isinstance(chosen["mask"], torch.Tensor):
        chosen["mask"] = "columns"
    dtype = data.draw(st.sampled_from(list(CARRIER)))
    states: list[sp.StreamState] | None = None
    oracles: list[OracleState | None] = [None] * count
    for _ in range(2):
        xs = []
        for grid in sizes:
            x = laid_out(data.draw(features(grid, depth, frames=(0, 3))).to(dtype), data.draw(st.sampled_from(LAYOUTS)))
            assume(not on_the_edge(x).any())
            xs.append(x.to(device))
        results = sp.prune(xs, sp.PruneConfig(**chosen), state=states, backend=backend)
        told = [assert_agrees(r, x, chosen, state=o) for r, x, o in zip(results, xs, oracles, strict=True)]
        states, oracles = [r.state for r in results], [t.state for t in told]


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("dtype", list(CARRIER), ids=str)
def test_hostile_values(backend: str, device: torch.device, kind: str, dtype: torch.dtype) -> None:
    """Every kind of hostile value in every dtype, with either reference."""
    for seed, reference in enumerate(["previous", "last_kept"]):
        x = spoil(field((3, 3, 3, 8), redundancy=0.6, seed=seed, dtype=dtype), [kind], seed).to(device)
        for more in ({"temporal_threshold": 0.6}, {"keep_tokens": 4}, {"neighbors": "survivors", "carrier": "kept"}):
            chosen = {"reference": reference, "mask": "all", **more}
            result = sp.prune(x, sp.PruneConfig(**chosen), backend=backend)
            assert_agrees(result, x, chosen)
            assert result.tokens.isfinite().all()


def test_hostile_values_are_what_they_say() -> None:
    """The inputs on their own: each kind changes some tokens, and the views have the values they are asked for."""
    for dtype in CARRIER:
        x = field((3, 3, 3, 8), dtype=dtype)
        assert x.isfinite().all()
        for kind in HOSTILE:
            assert not torch.equal(spoil(x, [kind], 1).nan_to_num(7.0), x), kind
        for layout in LAYOUTS:
            view = laid_out(x, layout)
            assert view.shape == x.shape
            assert layout == "contiguous" or not view.is_contiguous() or view.storage_offset()
            if "expanded" not in layout:
                assert torch.equal(view, x)
    norms = spoil(field((3, 3, 3, 8)), ["huge"], 1).double().norm(dim=-1)
    assert 1e19 < norms.max() < 1e31
    spread = [field((1, 6, 6, 16), redundancy=r) for r in (0.0, 0.9, 1.0)]
    cosines = [torch.cosine_similarity(f[:, :, 1:], f[:, :, :-1], dim=-1).mean().item() for f in spread]
    assert cosines[0] < 0.2 < cosines[1] < 0.9999 < cosines[2]
