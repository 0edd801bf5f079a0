"""Grids on both sides of the kernels' strips (2 x 4 tokens) and tiles (8 x 8): the kernels against the reference."""

from __future__ import annotations

import pytest
import torch
from features import INTERPRETED, field
from tolerances import COSINE, MARGIN

import streamprune_triton as sp

GRIDS = [(1, 1), (1, 9), (2, 4), (3, 5), (4, 8), (8, 8), (9, 3), (7, 12), (17, 9)]
pytestmark = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="needs a GPU, or TRITON_INTERPRET=1 set before Python"
)


@pytest.mark.parametrize(("depth", "dtype"), [(24, torch.bfloat16), (20, torch.float32), (7, torch.float32)], ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_triton_agrees_with_the_reference_on_every_grid(grid, depth, dtype):
    """Each token is of another length and its neighbours are unlike each other, so that no two can be mistaken."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x = field((3, *grid, depth), redundancy=0.5, seed=grid[0] * 100 + grid[1])
    x = (x * torch.arange(1, x.shape[:3].numel() + 1).view(*x.shape[:3], 1)).to(dtype).to(device)
    states = [sp.prune(x[:1], backend=backend).state for backend in ("torch", "triton")]
    told, got = (sp.prune(x[1:], state=s, backend=b) for s, b in zip(states, ("torch", "triton"), strict=True))
    assert torch.equal(got.temporal.isnan(), told.temporal.isnan())
    assert torch.equal(got.spatial.isnan(), told.spatial.isnan())
    assert (got.temporal - told.temporal).abs().max() < COSINE
    assert (got.spatial - told.spatial).nan_to_num().abs().max() < COSINE
    assert torch.equal(got.state.reference, x[-1])
    close = ((told.temporal - 0.2).abs() < MARGIN) | ((told.spatial - 0.5).abs() < MARGIN)
    assert bool(((got.keep == told.keep) | close).all())
    mean = x[1:].float().mean((1, 2))
    assert torch.allclose(got.carriers.float(), mean, rtol=2.0**-7 if dtype == torch.bfloat16 else 2.0**-20, atol=1e-4)
