"""Thresholds that drop a given share of an exam's tokens, so that configurations can be compared at equal cost."""

from __future__ import annotations

from collections.abc import Callable

import streamprune_triton as sp

from ..exam import Choice, Exam
from .ours import pruned

HALVINGS = 14  # of the interval of thresholds


def matched(exam: Exam, config: Callable[[float], sp.PruneConfig], dropped: float) -> Choice:
    """What a configuration keeps at the threshold at which it drops nearest to a share of the exam's tokens.

    Args:
        exam: the clips.
        config: at a threshold in [-1, 1]; the higher it is, the less is dropped.
        dropped: the share that is wanted.
    """
    low, high = -1.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        more = exam.dropped(pruned(config(middle))) > dropped
        low, high = (middle, high) if more else (low, middle)
    return min((pruned(config(end)) for end in (low, high)), key=lambda each: abs(exam.dropped(each) - dropped))
