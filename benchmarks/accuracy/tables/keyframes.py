"""Whole steps now and then, paid for by the others: the same exact number of tokens of each clip."""

from __future__ import annotations

from collections.abc import Iterator

import streamprune_triton as sp

from ..batch import AREA
from ..cell import Cell
from ..exam import Exam
from ..methods import budget
from ..methods.ours import pruned

RATIOS = (0.6, 0.7)
INTERVALS = {"no keyframes": None, "every 8th step": 8, "every 4th step": 4}


def keyframes(exam: Exam) -> Iterator[Cell]:
    """Keyframes count against the budget here, as they do not in `PruneConfig`."""
    for share in RATIOS:
        for name, interval in INTERVALS.items():
            whole = -(-exam.steps // interval) * AREA if interval else 0
            count = max(0, budget(exam.steps, share) - whole)
            config = sp.PruneConfig(keep_tokens=count, scope="clip", keyframe_interval=interval, carrier=None)
            choice = pruned(config)
            yield Cell(name, f"{share:.0%}", exam.dropped(choice), exam.marks(choice))
