"""Both thresholds over a grid, and what an exact budget gives at the same share."""

from __future__ import annotations

from collections.abc import Iterator

import streamprune_triton as sp

from ..batch import AREA
from ..cell import Cell
from ..exam import Exam
from ..methods.matching import matched
from ..methods.ours import pruned

THRESHOLDS = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
QUICK = (0.05, 0.5, 0.95)
PER_STEP = (1, 2, 3, 5, 9)  # tokens of each step that a budget keeps


def thresholds(exam: Exam) -> Iterator[Cell]:
    """A cell of its own for every pair: the share that is dropped differs, and from clip to clip."""
    values = QUICK if exam.quick else THRESHOLDS
    for temporal in values:
        for spatial in values:
            choice = pruned(sp.PruneConfig(temporal, spatial, carrier=None))
            setting = f"tau_t={temporal:g} tau_s={spatial:g}"
            yield Cell("thresholds", setting, exam.dropped(choice), exam.marks(choice))


def budgets(exam: Exam) -> Iterator[Cell]:
    """One threshold for both, set so that it drops a share on average; the same of each clip; and of each step."""
    for count in PER_STEP:
        share = 1 - count / AREA
        ways = {
            "thresholds": matched(exam, lambda tau: sp.PruneConfig(tau, tau, carrier=None), share),
            "budget of a clip": pruned(sp.PruneConfig(keep_tokens=count * exam.steps, scope="clip", carrier=None)),
            "budget of a step": pruned(sp.PruneConfig(keep_tokens=count, scope="frame", carrier=None)),
        }
        for name, choice in ways.items():
            yield Cell(name, f"{share:.1%}", exam.dropped(choice), exam.marks(choice))
