"""The experiments with carriers: each yields a `Cell` for every way to remember, and under each setting a reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import streamprune_triton as sp
from streamprune_triton.shapes.rules import NONE

from ..batch import Batch, Clips, make
from ..cell import Cell
from ..exam import COUNT, Choice
from ..marks import marks
from ..measure import TEST, batches
from ..methods import METHODS, everything, exact
from ..methods.ours import pruned
from .lives import RULES
from .modes import ALONE, CARRIERS, TOKENS, Mode, hybrid
from .network import CarrierNetwork

BEGUN, TOKENS_BEGUN = "all tokens, as it began", "tokens, as it began"
MEMORY_STEPS = (32, 64, 128)
CARRIERS_KEPT = (4, 8, 16, 32, 64)
SHARES = (0.05, 0.1, 0.2)  # of the whole clip's rows
# What a step is read as, besides its carrier: so many tokens, or those under a threshold.
READ: dict[str, sp.PruneConfig] = {
    "all tokens": sp.PruneConfig(temporal_threshold=None, spatial_threshold=None),
    "12 a step": sp.PruneConfig(keep_tokens=12),
    "4 a step": sp.PruneConfig(keep_tokens=4),
    "thresholds 0.5, 0.5": sp.PruneConfig(0.5, 0.5),
}


def late(seed: int, clips: int, steps: int) -> Clips:
    """Clips about which nothing is asked in their first half: what is needed may have left the memory."""
    made = make(seed, clips, steps)
    known = made.known.copy()
    known[:, : steps // 2] = NONE
    return dataclasses.replace(made, known=known)


@dataclass(frozen=True)
class Asked(Cell):
    """A cell that says which network was asked, and about clips of how many steps."""

    stage: str = ""
    steps: int = 0


@dataclass
class Trial:
    """Networks, by what they were trained in, on the same clips and questions.

    Attributes:
        nets: the first is the one that carriers' training began with, the last the one that it ended with.
        clips: of each table.
    """

    nets: dict[str, CarrierNetwork]
    clips: int
    _given: dict[tuple[str, int, bool], list[Batch]] = field(default_factory=dict)

    @property
    def trained(self) -> str:
        return list(self.nets)[-1]

    def given(self, stage: str, steps: int, only_late: bool = False) -> list[Batch]:
        """The clips' features and questions. Features are the network's own, the rest is the same for all."""
        key = (stage, steps, only_late)
        if key not in self._given:
            maker: Callable[[int, int, int], Clips] = late if only_late else make
            self._given = {old: value for old, value in self._given.items() if old[1:] == key[1:]}
            self._given[key] = list(batches(self.nets[stage], TEST, steps, self.clips, COUNT, maker))
        return self._given[key]

    def cell(
        self, stage: str, mode: Mode, choice: Choice, method: str, setting: str, steps: int, only_late: bool = False
    ) -> Asked:
        """What a network answers that reads the tokens of `choice` and remembers by `mode`."""
        given = self.given(stage, steps, only_late)
        kept = [choice(batch) for batch in given]
        hits = (mode.correct(self.nets[stage], batch, keep) for batch, keep in zip(given, kept, strict=True))
        held = sum(mode.held(batch, keep) for batch, keep in zip(given, kept, strict=True)) / len(given)
        return Asked(method, setting, 1 - held, marks(given, hits), True, stage, steps)


def carriers(trial: Trial, steps: int = 16) -> Iterator[Asked]:
    """After each stage: all tokens, a window, and one token a step, read behind its step's tokens or alone."""
    first = next(iter(trial.nets))
    whole = trial.cell(first, TOKENS, everything, "", "", steps)
    ways: dict[str, tuple[Mode, Choice]] = {
        "all tokens": (TOKENS, everything),
        "85% dropped": (TOKENS, exact(METHODS["ours"], 0.85)),
        "92% dropped": (TOKENS, exact(METHODS["ours"], 0.92)),
        "newest 2 steps and carriers": (hybrid(2), everything),
        "carriers": (CARRIERS, everything),
        "carriers, 85% dropped": (CARRIERS, exact(METHODS["ours"], 0.85)),
        "carriers without their KV": (ALONE, everything),
        "carriers without their embedding": (Mode(sp.Memory("carriers"), blank=True), everything),
    }
    for stage in trial.nets:
        yield dataclasses.replace(whole, method=BEGUN, setting=stage)
        for name, (mode, choice) in ways.items():
            yield trial.cell(stage, mode, choice, name, stage, steps)


def memory(trial: Trial) -> Iterator[Asked]:
    """At most M carriers, chosen by three rules, 12 tokens a step read; questions about the second halves of clips."""
    read = pruned(READ["12 a step"])
    for steps in MEMORY_STEPS:
        cell = partial(trial.cell, trial.trained, steps=steps, only_late=True)
        whole = cell(CARRIERS, read, "all carriers", "")
        for most in (n for n in CARRIERS_KEPT if n < steps):
            setting = f"{steps} steps, M={most}"
            yield dataclasses.replace(whole, setting=setting)
            for rule in RULES:
                yield cell(Mode(sp.Memory("carriers", max_carriers=most), rule), read, rule, setting)


def hybrids(trial: Trial, steps: int = 32) -> Iterator[Asked]:
    """Three memories of equal size, by what a step is read as; questions about the second halves of clips."""
    cell = partial(trial.cell, trial.trained, steps=steps, only_late=True)
    begun = trial.cell(next(iter(trial.nets)), TOKENS, everything, BEGUN, "", steps, True)
    whole, first = (cell(mode, everything, name, "") for name, mode in (("all tokens", TOKENS), ("carriers", CARRIERS)))
    area = everything(trial.given(trial.trained, steps, True)[0]).shape[1]
    for share in SHARES:
        for read, config in READ.items():
            setting = f"{share:.0%} of the rows, {read}"
            for same in (begun, whole, first):
                yield dataclasses.replace(same, setting=setting)
            rows = round(share * area)
            plain = sp.Memory("tokens", max_tokens=rows)
            both = sp.Memory("hybrid", max_carriers=steps, recent_frames=steps, max_tokens=max(1, rows - steps))
            yield trial.cell(next(iter(trial.nets)), Mode(plain), pruned(config), TOKENS_BEGUN, setting, steps, True)
            yield cell(Mode(plain), pruned(config), "tokens", setting)
            yield cell(Mode(both), pruned(config), "hybrid", setting)


TABLES: dict[str, Callable[[Trial], Iterator[Asked]]] = {"carriers": carriers, "memory": memory, "hybrid": hybrids}
