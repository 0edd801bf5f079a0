"""Frames and clips larger than the blocks in which the kernels rank, select and count: 32, 256 and 1024 at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from features import field, spoil
from tolerances import assert_agrees, padded

import streamprune_triton as sp

OPTIONS: list[dict[str, Any]] = [
    {},
    {"reference": "last_kept", "carrier": "kept"},
    {"neighbors": "survivors", "temporal_threshold": 0.6},
    {"keep_tokens": 40},
    {"keep_tokens": 130, "scope": "clip"},
    {"max_tokens": 35, "keyframe_interval": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_frames_of_several_blocks(backend: str, device: torch.device, options: dict[str, Any]) -> None:
    x = spoil(field((3, 9, 17, 7), redundancy=0.5), ["nan", "inf", "zeros"]).to(device)
    assert_agrees(sp.prune(x, sp.PruneConfig(**options), backend=backend), x, options)
    for capacity in (45, 459):
        got = padded(x, sp.PruneConfig(**options), backend=backend, capacity=capacity)
        assert_agrees(got, x, options, capacity=capacity)


@pytest.mark.parametrize("options", [{"keep_tokens": 1040}, {"keep_tokens": 2000, "scope": "clip"}], ids=str)
def test_ties_in_frames_of_many_tokens(backend: str, device: torch.device, options: dict[str, Any]) -> None:
    """All tokens are alike: of each segment the first ones stay."""
    x = torch.ones(2, 33, 32, 1, device=device)
    result = sp.prune(x, sp.PruneConfig(mask=None, **options), backend=backend)
    first = list(range(1040)) + [1056 + n for n in range(1040)]
    assert result.indices.tolist() == (first if "scope" not in options else list(range(2000)))


def test_carriers_of_frames_of_many_tokens(backend: str, device: torch.device) -> None:
    """The last token counts, and is not finite in one of the frames."""
    x = torch.arange(2 * 33 * 32.0).view(2, 33, 32, 1).to(device)
    x[1, -1, -1] = torch.nan
    result = sp.prune(x, sp.PruneConfig(None, None), backend=backend)
    told = [x[0].double().mean(), x[1].double().nanmean()]
    torch.testing.assert_close(result.carriers.flatten().double(), torch.stack(told), rtol=1e-6, atol=0)
    assert int(result.nonfinite) == 1


@pytest.mark.parametrize("shape", [(300, 1, 2, 1), (1, 257, 32, 1)], ids=["frames", "blocks"])
def test_ranks_behind_many(backend: str, device: torch.device, shape: tuple[int, int, int, int]) -> None:
    """Every third token is another: frames keep two, one or none, blocks two thirds."""
    x = torch.ones(shape).flatten()
    x[::3] = -1.0
    x = x.view(shape).to(device)
    options = {"temporal_threshold": 0.5, "spatial_threshold": 0.5}
    assert_agrees(sp.prune(x, sp.PruneConfig(**options), backend=backend), x, options, certain=True)
