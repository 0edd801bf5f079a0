"""Of tokens that nothing could be compared with, which fell to a budget and which are not finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import streamprune_triton as sp
from streamprune_triton.attribution import BY_TIME, KEPT, NOT_FINITE, attribute

EVS = sp.PruneConfig(keep_tokens=2, mask=None)
WHERE = [(0, 1, 2), (2, 0, 0), (3, 2, 1)]  # the first and the last frame among them


def features(shape: tuple[int, ...] = (4, 3, 4, 8)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def broken(x: torch.Tensor, where: list[Any]) -> torch.Tensor:
    x = x.clone()
    for n, place in enumerate(where):
        x[place][n % x.shape[-1]] = (torch.nan, torch.inf, -torch.inf)[n % 3]
    return x


def not_finite(x: torch.Tensor) -> np.ndarray:
    return ~x.isfinite().all(-1).numpy()


@pytest.mark.parametrize("more", [{}, {"scope": "clip"}, {"keep_tokens": None, "max_tokens": 1}, {"keep_tokens": 0}])
def test_a_first_frame_without_similarities(more: dict[str, Any]) -> None:
    """As in EVS: all its tokens are alike to a budget, and what is dropped of them is not taken for broken."""
    config = sp.PruneConfig(**{"keep_tokens": 2, "mask": None, **more})
    x = broken(features(), WHERE)
    fate = attribute(sp.prune(x, config), config)
    assert ((fate == NOT_FINITE) == not_finite(x)).all()
    assert (fate[0] == BY_TIME).any()


@pytest.mark.parametrize("cuts", [[1, 1, 1, 1], [1, 3], [3, 1]])
def test_a_stream_cut_into_calls(cuts: list[int]) -> None:
    pruner, x = sp.StreamPruner(EVS), broken(features(), WHERE)
    fates = [attribute(pruner(part), EVS) for part in x.split(cuts)]
    assert ((np.concatenate(fates) == NOT_FINITE) == not_finite(x)).all()


def test_a_token_among_broken_ones() -> None:
    """It has neighbours, and all of them are not finite, in a frame whose reference is not either."""
    config = sp.PruneConfig(keep_tokens=0)
    x = broken(features((3, 3, 3, 8)), [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 2), (1, 2, 1)])
    result = sp.prune(x, config)
    assert result.temporal[1, 1, 1].isnan()
    assert result.spatial[1, 1, 1].isnan()
    assert ((attribute(result, config) == NOT_FINITE) == not_finite(x)).all()


def test_one_token_a_frame() -> None:
    config = sp.PruneConfig(keep_tokens=1, scope="clip")
    x = broken(features((5, 1, 1, 8)), [(1, 0, 0), (4, 0, 0)])
    assert ((attribute(sp.prune(x, config), config) == NOT_FINITE) == not_finite(x)).all()


def test_a_broken_token_behind_it_hides_what_it_was() -> None:
    """The one case with the usual reference in which a finite token is taken for another."""
    x = broken(features(), [(1, 1, 2)])
    result = sp.prune(x, EVS)
    assert not result.keep[0, 1, 2]
    found = not_finite(x)
    found[0, 1, 2] = True
    assert ((attribute(result, EVS) == NOT_FINITE) == found).all()


def test_a_dropped_token_is_no_reference_where_the_last_kept_one_is() -> None:
    """What follows a broken token has a similarity to the one before, which says nothing of it."""
    config = sp.PruneConfig(reference="last_kept", keep_tokens=20)
    x = broken(features(), [(1, 1, 2)])
    result = sp.prune(x, config)
    assert not result.temporal[2, 1, 2].isnan()
    fate = attribute(result, config)
    assert np.argwhere(fate == NOT_FINITE).tolist() == [[1, 1, 2]]
    assert (fate == KEPT).sum() == x[..., 0].numel() - 1


def test_no_frames() -> None:
    assert attribute(sp.prune(features()[:0], EVS), EVS).shape == (0, 3, 4)
