"""Which neighbours count: all in the grid, or those that the temporal stage kept."""

from __future__ import annotations

from collections.abc import Iterator

import streamprune_triton as sp

from ..cell import Cell
from ..exam import Exam
from ..methods.matching import matched
from ..methods.ours import pruned

THRESHOLDS = ((0.2, 0.5), (0.8, 0.5), (0.95, 0.8))  # temporal and spatial


def neighbors(exam: Exam) -> Iterator[Cell]:
    """The grid first; survivors at the same thresholds, which drop less; the grid at the survivors' share."""
    for temporal, spatial in THRESHOLDS:

        def config(tau: float, which: str = "grid", temporal: float = temporal) -> sp.PruneConfig:
            return sp.PruneConfig(temporal, tau, neighbors=which, carrier=None)

        survivors = pruned(config(spatial, "survivors"))
        ways = {
            "grid": pruned(config(spatial)),
            "survivors": survivors,
            "grid, survivors' share": matched(exam, config, exam.dropped(survivors)),
        }
        for name, choice in ways.items():
            setting = f"tau_t={temporal:g} tau_s={spatial:g}"
            yield Cell(name, setting, exam.dropped(choice), exam.marks(choice))
