"""Which tokens the compared methods keep, and that what was padded is answered as if it were alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import streamprune_triton as sp
from benchmarks.accuracy import methods, packing
from benchmarks.accuracy.batch import AREA, GRID, Batch, asked, make
from benchmarks.accuracy.exam import Exam
from benchmarks.accuracy.measure import correct
from benchmarks.accuracy.methods import masks, ours, peers
from benchmarks.accuracy.methods.matching import matched
from benchmarks.accuracy.network import Network
from streamprune_triton.shapes import model as small

STEPS = 4
EVERY = {**methods.METHODS, **{f"mask: {name}": method for name, method in masks.MASKS.items()}}


def clip(seed: int = 0, steps: int = STEPS) -> torch.Tensor:
    """(T, H, W, D) of neighbours that are alike, and of steps that are more so."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(1, GRID, GRID, 8, generator=generator).cumsum(2)
    return base + 0.3 * torch.randn(steps, GRID, GRID, 8, generator=generator)


@pytest.fixture(scope="module")
def net() -> Network:
    return Network(*small.build()).eval()


@pytest.fixture(scope="module")
def batch(net: Network) -> Batch:
    clips = make(7, 3, STEPS)
    with torch.no_grad():
        return asked(np.random.default_rng(0), net.features(clips.frames), clips.labels, clips.known, 5)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dropped", [0.5, 0.85, 0.97])
def test_a_method_keeps_its_budget(name: str, dropped: float) -> None:
    x = torch.stack([clip(seed).flatten(1, 2) for seed in range(3)])
    count = methods.budget(STEPS, dropped)
    keep = methods.kept(EVERY[name], x, count)
    assert keep.shape == (3, count)
    assert (keep.diff(dim=1) > 0).all()
    assert int(keep.min()) >= 0
    assert int(keep.max()) < STEPS * AREA
    assert torch.equal(keep, methods.kept(EVERY[name], x, count))


def test_methods_look_at_what_they_say() -> None:
    """One token of a still clip changes in one step: by time it stays, and by space as well."""
    x = torch.zeros(1, 4, AREA, 8)
    x[..., 0] = 1
    x[0, 2, 14] = torch.eye(8)[1]
    place = 2 * AREA + 14
    for name in ("ours", "DTD alone", "EVS"):
        keep = methods.kept(methods.METHODS[name], x, AREA + 2)[0].tolist()
        assert place in keep, name
        assert set(range(AREA)) <= set(keep), name
        assert place + AREA in keep, name  # it changes back
    for method in (ours.spatial, peers.divprune, peers.tome):
        assert place in methods.kept(method, x, 8)[0], method
    assert place not in methods.kept(methods.METHODS["uniform"], x, 5)[0]


def test_evs_keeps_the_begin_of_a_step_below_its_own_budget() -> None:
    assert peers.evs(clip(), 5).tolist() == [0, 1, 2, 3, 4]


def test_vidcom2_gives_more_to_steps_that_stand_out() -> None:
    x = clip(steps=6)
    x[3] = torch.randn(GRID, GRID, 8, generator=torch.Generator().manual_seed(5)) * 3
    counts = peers.vidcom2(x, 60).div(AREA, rounding_mode="floor").bincount(minlength=6)
    assert counts.argmax() == 3
    assert counts[3] > 60 // 6


def test_masks_part_where_they_should() -> None:
    x = clip()
    kept = {name: set(method(x, 40).tolist()) for name, method in masks.MASKS.items()}
    board = (torch.arange(GRID)[:, None] + torch.arange(GRID)) % 2 == 1
    assert kept["checkerboard"] == set(masks.masked(board, x, 40).tolist())
    assert kept["checkerboard"] == set(ours.both(x, 40).tolist())
    assert len({frozenset(each) for each in kept.values()}) == len(kept)


def test_one_by_one_is_the_greedy_choice() -> None:
    """Against the same rule, with every score computed anew for every token that goes."""
    x = clip(1, steps=2)
    unit = torch.nn.functional.normalize(x, dim=-1).double()
    left = {(n, i, j) for n in range(2) for i in range(GRID) for j in range(GRID)}

    def redundancy(token: tuple[int, int, int]) -> float:
        n, i, j = token
        beside = [(n, i + 1, j), (n, i - 1, j), (n, i, j + 1), (n, i, j - 1)]
        others = [unit[other] for other in beside if other in left] + [unit[n - 1, i, j]] * (n > 0)
        return max([float(unit[token] @ other) for other in others], default=-1.0)

    while len(left) > 20:
        left.remove(max(left, key=lambda token: (redundancy(token), token)))
    expected = sorted((n * GRID + i) * GRID + j for n, i, j in left)
    assert masks.sequential(x, 20).tolist() == expected


def test_one_by_one_keeps_one_of_a_flat_area_where_all_at_once_keeps_any() -> None:
    x = torch.zeros(1, GRID, GRID, 4)
    x[:, :, :3, 0], x[:, :, 3:, 1] = 1, 1  # two flat halves
    for count in (2, 8):
        columns = masks.sequential(x, count) % GRID
        assert (columns < 3).any()
        assert (columns >= 3).any()
    assert masks.MASKS["all at once"](x, 2).tolist() == [0, 1]


def test_any_of_the_frame_sees_what_no_neighbour_shows() -> None:
    x = torch.eye(AREA).view(1, GRID, GRID, AREA).clone()
    x[0, 5, 4] = x[0, 0, 1]  # far apart, both of odd row + column
    assert set(range(AREA)) - set(masks.anywhere(x, AREA - 2).tolist()) == {1, 34}


def test_padding_changes_nothing(net: Network, batch: Batch) -> None:
    """Clips that keep 100, 7 and 0 tokens, answered together and one by one."""
    keep = torch.full((3, 100), packing.PADDING)
    keep[0] = torch.arange(100)
    keep[1, :7] = torch.arange(0, 70, 10)
    behind = torch.zeros(3, dtype=torch.bool)
    with torch.no_grad():
        packed = packing.pack(batch, net.words, keep, behind)
        together = net.answer(net.read(batch.x, packed)[-1], packed.asks)
        for n, count in enumerate((100, 7, 0)):
            one = Batch(batch.x[n : n + 1], {}, *(each[n : n + 1] for each in (batch.text, batch.step, batch.answer)))
            packed = packing.pack(one, net.words, keep[n : n + 1, :count], behind[:1])
            alone = net.answer(net.read(one.x, packed)[-1], packed.asks)
            torch.testing.assert_close(together[n], alone[0], rtol=0, atol=1e-5)
        changed = dataclasses.replace(batch, x=batch.x + torch.tensor([0.0, 0, 1])[:, None, None, None])
        assert torch.equal(correct(net, batch, keep), correct(net, changed, keep))


def test_thresholds_are_padded_and_matched(net: Network, batch: Batch) -> None:
    config = sp.PruneConfig(0.9, 0.9, carrier=None)
    keep = ours.pruned(config)(batch)
    for row, x in zip(keep, batch.x, strict=True):
        expected = sp.prune(x.unflatten(1, (GRID, GRID)), config).indices
        assert torch.equal(row[row != packing.PADDING], expected)
    exam = Exam(net, [batch])
    goal = exam.dropped(ours.pruned(sp.PruneConfig(0.6, 0.6, carrier=None)))
    found = matched(exam, lambda tau: sp.PruneConfig(tau, tau, carrier=None), goal)
    assert abs(exam.dropped(found) - goal) < 0.02
