"""Means over training seeds with 95 % intervals; with one seed, intervals over questions or clips."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

from ..rows import Row

NORMAL = 1.96
# 97.5 % points of Student's t by its degrees of freedom
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


class Interval(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half the length."""
        return (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def share(rows: Sequence[Row]) -> Interval:
    """The share of right answers of a cell: over seeds by Student's t, of one seed by Wilson over its questions."""
    if len(rows) == 1:
        return Interval(rows[0].score.share, *rows[0].score.interval)
    value, half = _student([row.score.share for row in rows])
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


def difference(first: Sequence[Row], rows: Sequence[Row]) -> Interval:
    """By how much the first cell's share is above the second's, seed by seed; of one seed over clips, by `spread`."""
    other = {row.seed: row for row in rows}
    ahead = [row.score.share - other[row.seed].score.share for row in first if row.seed in other]
    if len(ahead) == 1:
        half = NORMAL * (rows[0].spread or 0.0)
        return Interval(ahead[0], ahead[0] - half, ahead[0] + half)
    value, half = _student(ahead)
    return Interval(value, value - half, value + half)


def _student(values: Sequence[float]) -> tuple[float, float]:
    """The mean and half its interval."""
    point = STUDENT[min(len(values) - 1, len(STUDENT)) - 1]
    return mean(values), point * stdev(values) / len(values) ** 0.5
