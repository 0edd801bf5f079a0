"""The reference computes blocks of frames and strips of rows at a time: where these end changes no decision."""

from __future__ import annotations

import pytest
import torch
from features import field, spoil
from tolerances import assert_bits

import streamprune_triton as sp
from streamprune_triton.reference import scores

SHAPES = [(4, 7, 5, 6), (3, 1, 9, 4), (3, 8, 1, 5), (2, 2, 2, 1)]


@pytest.mark.parametrize("elements", [1, 30, 64, 211])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kinds", [[], ["nan", "inf", "zeros", "bad_frame"]], ids=["finite", "spoilt"])
@pytest.mark.parametrize("mask", ["checkerboard", None])
def test_strips_and_blocks(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], elements: int, kinds: list[str], mask: str | None
) -> None:
    """No dot product crosses them, so similarities keep their bits; a carrier's sum has another order, no more."""
    x = spoil(field(shape, redundancy=0.6, dtype=torch.bfloat16), kinds)
    for carrier in ("all", "kept"):
        config = sp.PruneConfig(temporal_threshold=0.5, mask=mask, carrier=carrier)
        whole = sp.prune(x, config, backend="torch")
        monkeypatch.setattr(scores, "BLOCK_ELEMENTS", elements)
        cut = sp.prune(x, config, backend="torch")
        monkeypatch.undo()
        for name in ("temporal", "spatial", "keep", "tokens"):
            assert_bits(getattr(cut, name), getattr(whole, name), name)
        assert int(cut.nonfinite) == int(whole.nonfinite)
        torch.testing.assert_close(cut.carriers, whole.carriers, rtol=2.0**-7, atol=1e-6)


def test_a_sum_of_many_features() -> None:
    """A dot product in slices is that of all features; each of these numbers is a whole one."""
    a = torch.arange(3 * (scores.SLICE + 7)).view(1, 3, -1).remainder(5).float()
    assert scores.dot(a, a + 1).tolist() == (a * (a + 1)).double().sum(-1).tolist()
