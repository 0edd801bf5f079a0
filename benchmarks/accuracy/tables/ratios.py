"""Accuracy against the share that is dropped: every method keeps the same number of tokens of each clip."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ..baselines import guessed_right, guesses, last_step_right
from ..cell import Cell
from ..exam import Exam
from ..marks import marks
from ..measure import VALIDATION
from ..methods import METHODS, everything, exact

RATIOS = (0.5, 0.75, 0.85, 0.92, 0.95, 0.97)
BY_TYPE = (0.85, 0.92)  # with rows for each type of question; the quick run has these alone
WHOLE = "0%"


def ratios(exam: Exam) -> Iterator[Cell]:
    """Nothing dropped and the baselines under "0%", then each share, with "unpruned" beside the methods."""
    whole = Cell("unpruned", WHOLE, 0.0, exam.marks(everything), True)
    yield whole
    yield from baselines(exam)
    for share in BY_TYPE if exam.quick else RATIOS:
        setting, by_type = f"{share:.0%}", share in BY_TYPE
        for name, method in METHODS.items():
            yield Cell(name, setting, share, exam.marks(exact(method, share)), by_type)
        yield Cell("unpruned", setting, 0.0, whole.marks)


def baselines(exam: Exam) -> Iterator[Cell]:
    """The network, shown the last step alone; the most frequent answer to the very words, and to the type."""
    majority, blind = guesses(VALIDATION, exam.steps, clips=1000)
    ways = {
        "last step": partial(last_step_right, exam.net),
        "blind": partial(guessed_right, guess=blind),
        "majority": partial(guessed_right, guess=majority),
    }
    for name, way in ways.items():
        yield Cell(name, WHOLE, None, marks(exam.given, map(way, exam.given)), True)
