"""What the spatial stage may be in place of MSSAVT on a checkerboard, all at the same exact budget."""

from __future__ import annotations

from collections.abc import Iterator

from ..cell import Cell
from ..exam import Exam
from ..methods import exact
from ..methods.masks import MASKS

RATIOS = (0.92, 0.95)  # where DTD alone is not enough


def masks(exam: Exam) -> Iterator[Cell]:
    """The checkerboard first, then each other mask, random ones, none, one by one, and any token of the frame."""
    for share in RATIOS[:1] if exam.quick else RATIOS:
        for name, method in MASKS.items():
            yield Cell(name, f"{share:.0%}", share, exam.marks(exact(method, share)))
