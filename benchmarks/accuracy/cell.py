"""What a table yields: one method under one setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .exam import Exam
from .marks import Marks


@dataclass(frozen=True)
class Cell:
    """One method's answers.

    Attributes:
        method, setting, dropped: as of `rows.Row`; no two cells of a table have the same method and setting.
        marks: which of the questions were answered right. All cells of a setting are marked on the same questions.
        by_type: also give a row to each type of question, not to the groups alone.
    """

    method: str
    setting: str
    dropped: float | None
    marks: Marks
    by_type: bool = False


Table = Callable[[Exam], Iterator[Cell]]
