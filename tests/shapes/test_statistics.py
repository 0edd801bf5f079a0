"""Marks, groups, intervals, the Pareto front, and clips that drift."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from result_rows import a_row

from benchmarks.accuracy import drift, measure
from benchmarks.accuracy.batch import make
from benchmarks.accuracy.exam import Exam
from benchmarks.accuracy.marks import SPATIAL, Marks
from benchmarks.accuracy.report import sections, statistics
from benchmarks.accuracy.report.front import front
from benchmarks.accuracy.report.results import Results
from benchmarks.accuracy.tables.content import grouped
from streamprune_triton.shapes import questions, world


def test_wilsons_interval() -> None:
    low, high = measure.Score(9, 10).interval
    assert (round(low, 3), round(high, 3)) == (0.596, 0.982)
    assert measure.Score(0, 10).interval[0] == 0.0
    assert measure.Score(10, 10).interval[1] == 1.0


def some(right: list[list[int]], kind: str = "place") -> Marks:
    hits = np.array(right, bool)
    return Marks(np.full(hits.shape, questions.TYPES.index(kind)), np.ones(hits.shape, bool), hits)


def test_marks_by_kind_and_clip() -> None:
    marks = some([[1, 1], [0, 1], [0, 0]])
    marks.kind[:, 1] = questions.TYPES.index("count")
    assert marks.score == (3, 6)
    assert marks.only("count").score == (2, 3)
    assert marks.only(SPATIAL).score == (1, 3)
    assert marks.of(np.array([0])).score == (2, 2)


def test_the_spread_of_a_difference_over_clips() -> None:
    ours, other = some([[1, 1], [1, 1], [0, 1], [1, 1]]), some([[1, 1], [1, 0], [1, 1], [0, 1]])
    behind = np.array([0, 0.5, -0.5, 0.5])  # per clip
    assert other.spread(ours) == pytest.approx(behind.std(ddof=1) / 2)
    assert ours.spread(ours) == 0.0
    assert some([[1, 0]]).spread(some([[0, 0]])) is None


def cells(method: str, right: dict[int, int], **changes: Any) -> list[Any]:
    return [a_row(method=method, seed=seed, right=n, asked=100, **changes) for seed, n in right.items()]


def test_seeds_are_paired() -> None:
    """Seeds that differ much and a difference that does not: 10 points, with Student's t of two degrees."""
    ours, other = cells("ours", {0: 50, 1: 70, 2: 90}), cells("other", {2: 79, 0: 41, 1: 60})
    ahead = statistics.difference(ours, other)
    half = 4.303 * 0.01 / 3**0.5
    assert (ahead.value, ahead.half) == (pytest.approx(0.1), pytest.approx(half))
    assert ahead.excludes_zero
    wide = statistics.share(ours)
    assert (wide.value, wide.low, wide.high) == (pytest.approx(0.7), pytest.approx(0.7 - 0.497, abs=1e-3), 1.0)


def test_one_seed_has_intervals_over_questions_and_clips() -> None:
    ours, other = cells("ours", {0: 90}), cells("other", {0: 80}, spread=0.1)
    assert statistics.share(ours)[1:] == measure.Score(90, 100).interval
    ahead = statistics.difference(ours, other)
    assert (ahead.value, ahead.half) == (pytest.approx(0.1), pytest.approx(0.196))
    assert not ahead.excludes_zero


def test_results_compare_with_the_first_of_a_setting() -> None:
    found = Results([*cells("ours", {0: 90}), *cells("other", {0: 80}, spread=0.01)])
    ahead = found.ahead("ratios", "85%", "other")
    assert ahead is not None
    assert ahead.value == pytest.approx(0.1)
    assert found.ahead("ratios", "85%", "ours") is None
    assert found.ahead("ratios", "85%", "nobody") is None
    with pytest.raises(ValueError, match="no rows"):
        Results([])


def test_the_pareto_front() -> None:
    pairs = {"a": (0.9, 80), "b": (0.8, 90), "c": (0.8, 85), "d": (0.7, 70)}
    found = [cells("thresholds", {0: n}, table="thresholds", setting=s, dropped=d) for s, (d, n) in pairs.items()]
    assert front(Results([row for each in found for row in each])) == ["b", "a"]


def test_groups_of_clips() -> None:
    worlds = [world.simulate(5 + n, 16, 8) for n in range(2)]
    batches: Any = [type("Batch", (), {"size": 16, "x": np.zeros((16, 8))})()] * 2
    groups = grouped(Exam(None, batches, 5))  # type: ignore[arg-type]
    names = list(groups)
    assert sorted(np.concatenate([groups[name] for name in names[:5]])) == list(range(32))
    assert sorted(np.concatenate([groups[name] for name in names[5:]])) == list(range(32))
    assert [worlds[n // 16].background[n % 16] for n in groups["noise"]] == [3] * len(groups["noise"])
    moving = [[(worlds[n // 16].way[n % 16] > 0).sum() for n in groups[name]] for name in names[5:]]
    assert max(moving[0]) <= min(moving[1])
    assert max(moving[1]) <= min(moving[2])


def test_groups_add_up_to_all_clips() -> None:
    """Their shares and the variances of these weigh as many questions as each has."""
    thirds = [
        a_row(table="content", setting="little motion 85%", right=9, asked=10, spread=0.03, clips=2),
        a_row(table="content", setting="much motion 85%", right=10, asked=30, spread=0.01, clips=3),
        a_row(table="content", setting="much motion 85%", right=1, asked=2, seed=1),
    ]
    whole, other = sections.together(thirds)
    assert (whole.setting, whole.right, whole.asked, whole.clips) == ("all 85%", 19, 40, 5)
    assert whole.spread == pytest.approx((0.25**2 * 0.03**2 + 0.75**2 * 0.01**2) ** 0.5)
    assert (other.seed, other.right, other.spread) == (1, 1, None)


def test_light_that_grows() -> None:
    plain, lit = make(3, 2, 4), drift.brighter(3, 2, 4)
    more = lit.frames.int() - plain.frames.int()
    assert (more[:, 0] == 0).all()
    assert (more[:, -1].clamp(max=drift.RAMP) == more[:, -1]).all()
    dark = plain.frames[:, -1] <= 255 - drift.RAMP
    assert (more[:, -1][dark] == drift.RAMP).all()
    assert (plain.known == lit.known).all()


def test_slow_shapes_go_the_same_way_in_more_steps() -> None:
    fast = world.simulate(3, 8, 4)
    slow = drift.stretched(fast, 16)
    assert slow.steps == 16
    last = np.arange(1, 9) * drift.SLOWER - 1
    assert (slow.centre[:, last] == fast.centre).all()
    assert (slow.alive[:, last] == fast.alive).all()
    assert (slow.way[:, :: drift.SLOWER] == fast.way).all()
    pace = np.abs(np.diff(slow.centre[:, ::2].astype(int), axis=1)).max()
    assert 1 <= pace <= 2  # pixels a step
    moved = slow.centre[:, 3] - slow.centre[:, 0]  # in the first steps already
    going = slow.alive[:, 0] & (slow.way[:, 0] > 0)
    assert (np.abs(moved[going]).sum(-1) > 0).all()
