"""How many bytes the kernels ask for, counted address by address in Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from features import INTERPRETED, field

import streamprune_triton as sp

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="counts in the interpreter: TRITON_INTERPRET=1 before Python")

T, H, W, D = 3, 16, 16, 128


class Traffic:
    """Addresses that loads ask for, and that stores write, while the patch lasts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from triton.runtime.interpreter import InterpreterBuilder

        self.loads: list[np.ndarray] = []
        self.stores: list[np.ndarray] = []
        load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

        def counted_load(builder, ptrs, mask, *rest):
            self.loads.append(ptrs.data[mask.data.astype(bool)])
            return load(builder, ptrs, mask, *rest)

        def counted_store(builder, ptrs, value, mask, *rest):
            self.stores.append(ptrs.data[mask.data.astype(bool)])
            return store(builder, ptrs, value, mask, *rest)

        monkeypatch.setattr(InterpreterBuilder, "create_masked_load", counted_load)
        monkeypatch.setattr(InterpreterBuilder, "create_masked_store", counted_store)

    @staticmethod
    def within(addresses: list[np.ndarray], tensor: torch.Tensor) -> np.ndarray:
        """Those that lie in the tensor."""
        every = np.concatenate(addresses).astype(np.int64)
        return every[(every >= tensor.data_ptr()) & (every < tensor.data_ptr() + tensor.nbytes)]

    def read(self, tensor: torch.Tensor) -> tuple[float, float]:
        """(requests, different elements), as multiples of the tensor's elements."""
        found = self.within(self.loads, tensor)
        return len(found) / tensor.numel(), len(np.unique(found)) / tensor.numel()


@pytest.fixture
def inputs() -> tuple[torch.Tensor, sp.StreamState]:
    x = field((T + 1, H, W, D), redundancy=0.8).to(torch.float16)
    return x[1:].clone(), sp.prune(x[:1], backend="torch").state


def test_each_feature_is_read_once_and_neighbours_through_the_cache(inputs, monkeypatch):
    """With everything dropped the second kernel reads no feature, so these are the reads of the fused pass: each one
    for itself, for its left neighbour, the one above and the frame after, halo included; never more than four times."""
    x, state = inputs
    x = x[:1].expand(T, H, W, D).contiguous()
    state = sp.prune(x[:1], backend="torch").state
    traffic = Traffic(monkeypatch)
    result = sp.prune(x, sp.PruneConfig(-1.0, -1.0), state=state, backend="triton")
    assert int(result.counts.sum()) == 0
    requests, different = traffic.read(x)
    assert different == 1.0
    edges = (H * (W - 1) + (H - 1) * W) / (H * W)
    assert requests == pytest.approx(1 + edges + (T - 1) / T)
    assert traffic.read(state.reference) == (1.0, 1.0)


def test_kept_tokens_are_read_once_more_and_dropped_ones_are_not(inputs, monkeypatch):
    x, state = inputs
    everything = Traffic(monkeypatch)
    sp.prune(x, sp.PruneConfig(-1.0, -1.0, mask=None), state=state, backend="triton")
    dropped, _ = everything.read(x)
    half = float(sp.prune(x, state=state, backend="torch").temporal.median())
    some = Traffic(monkeypatch)
    result = sp.prune(x, sp.PruneConfig(half, mask=None), state=state, backend="triton")
    kept = int(result.counts.sum()) / result.keep.numel()
    assert 0.1 < kept < 0.9
    assert some.read(x)[0] == pytest.approx(dropped + kept)
    written = some.within(some.stores, result._padded[0])
    assert len(written) == len(np.unique(written)) == result.counts.sum() * D


def test_scratch_is_a_few_percent_of_the_features(monkeypatch):
    """Bytes behind the dot products and the sums of tiles, at a width where features are many."""
    from streamprune_triton.kernels.launch import TILE_H, TILE_W, Shape

    for itemsize, most in ((2, 0.05), (4, 0.025)):
        d = 3584
        shape = Shape.of(d, itemsize)
        per_token = 4 * 4 * shape.slices + 4 * d / (TILE_H * TILE_W)
        assert per_token / (d * itemsize) < most
