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


@pytest.mark.parametrize("carrier", ["all", None])
def test_triton_reads_each_feature_once_and_asks_for_it_at_most_2_75_times(inputs, carrier, monkeypatch):
    """With everything dropped the second kernel reads no feature, so these are the reads of the fused pass.

    A strip of 2 x 4 tokens loads its 8, 2 beside it, 4 below it and the 8 of the frame before; the last frame, which
    has none after it, is loaded once more as the next reference. At the edge of the grid there is no halo.
    """
    x, state = inputs
    x = x[:1].expand(T, H, W, D).contiguous()
    state = sp.prune(x[:1], backend="torch").state
    traffic = Traffic(monkeypatch)
    result = sp.prune(x, sp.PruneConfig(-1.0, -1.0, carrier=carrier), state=state, backend="triton")
    assert int(result.counts.sum()) == 0
    requests, different = traffic.read(x)
    assert different == 1.0
    beside, below = (W // 4 - 1) / W, (H // 2 - 1) / H
    assert requests == pytest.approx(1 + beside + below + 1)
    assert requests <= 2.75
    assert traffic.read(state.reference) == (1.0, 1.0)


def test_triton_reads_kept_tokens_once_more_and_dropped_ones_not(inputs, monkeypatch):
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


def scratch(x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> float:
    """Bytes of dot products and sums of tiles of one call on a GPU of 132 multiprocessors, over those of x."""
    from streamprune_triton import ops
    from streamprune_triton.kernels import launch
    from streamprune_triton.rule import Rule

    monkeypatch.setattr(launch, "_processors", lambda device: 132)
    rule = Rule.of(sp.PruneConfig(), x.device)
    out = ops.empty([x], rule.carrier, [1])
    batch = launch._Batch([launch.Stream(x, None, None, None)], rule, [1], out)
    return (batch.dots.nbytes + batch.sums.nbytes) / x.nbytes


def test_scratch_of_triton_is_two_percent_of_large_calls(monkeypatch):
    """16 bytes a token and slice of 512 features, 4 D bytes for up to 8 tiles; for one frame, 4 D bytes a tile."""
    clips = {(64, 16, 16): 0.0235, (16, 39, 69): 0.0205, (1, 16, 16): 0.047}
    for shape, most in clips.items():
        x = torch.empty((*shape, 3584), dtype=torch.bfloat16)
        assert scratch(x, monkeypatch) <= most, shape
