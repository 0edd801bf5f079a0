"""Accuracy by what is in the clips: their background, and how much moves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from streamprune_triton.shapes import world
from streamprune_triton.shapes.backgrounds import BACKGROUNDS

from ..cell import Cell
from ..exam import Exam
from ..methods import METHODS, everything, exact

RATIOS = (0.85, 0.92)
NAMES = ("ours", "DTD alone", "random")
MOTION = ("little motion", "some motion", "much motion")  # thirds of the clips
MORE = 5  # times the clips of the other tables, since each group has but a few of them


def content(exam: Exam) -> Iterator[Cell]:
    """For each background and third: some methods, and nothing dropped."""
    exam = exam if exam.quick else exam.with_clips(MORE * exam.clips)
    groups = grouped(exam)
    whole = exam.marks(everything)
    for share in RATIOS[-1:] if exam.quick else RATIOS:
        found = {name: exam.marks(exact(METHODS[name], share)) for name in NAMES}
        for group, clips in groups.items():
            setting = f"{group} {share:.0%}"
            for name, marks in found.items():
                yield Cell(name, setting, share, marks.of(clips))
            yield Cell("unpruned", setting, 0.0, whole.of(clips))


def grouped(exam: Exam) -> dict[str, np.ndarray]:
    """Indices of the clips in each group."""
    worlds = [world.simulate(exam.first_seed + n, batch.size, exam.steps) for n, batch in enumerate(exam.given)]
    behind = np.concatenate([each.background for each in worlds])
    moving = np.concatenate([(each.way > 0).sum((1, 2)) for each in worlds])  # steps in which a shape moves
    groups = {name: np.flatnonzero(behind == n) for n, name in enumerate(BACKGROUNDS)}
    thirds = np.array_split(moving.argsort(kind="stable"), len(MOTION))
    return groups | {name: np.sort(third) for name, third in zip(MOTION, thirds, strict=True)}
