"""What a token is compared with: the step before, or the last token kept at its place, where things drift slowly."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import streamprune_triton as sp

from ..batch import Clips
from ..cell import Cell
from ..drift import brighter, slower
from ..exam import Exam
from ..methods import everything
from ..methods.matching import matched
from ..methods.ours import pruned

THRESHOLDS = (0.5, 0.95)  # temporal
DRIFTS: dict[str, Callable[[int, int, int], Clips] | None] = {
    "as elsewhere": None,
    "growing light": brighter,
    "slow shapes": slower,
}


def reference(exam: Exam) -> Iterator[Cell]:
    """ "last kept" first; "previous" at the same thresholds, which drops more, and at the same share."""
    for name, maker in DRIFTS.items():
        over = exam if maker is None else exam.with_clips(exam.clips, maker)
        whole = over.marks(everything)
        for tau in THRESHOLDS:
            last = pruned(_config(tau, "last_kept"))
            share = over.dropped(last)
            ways = {
                "last kept": last,
                "previous": pruned(_config(tau, "previous")),
                "previous, same share": matched(over, lambda at: _config(at, "previous"), share),
            }
            setting = f"{name}, tau_t={tau:g}"
            for way, choice in ways.items():
                yield Cell(way, setting, over.dropped(choice), over.marks(choice))
            yield Cell("unpruned", setting, 0.0, whole)


def _config(temporal: float, against: str) -> sp.PruneConfig:
    return sp.PruneConfig(temporal, 0.5, reference=against, carrier=None)
