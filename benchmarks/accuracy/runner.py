"""Runs tables, one after the other or in processes, and turns their cells into rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from streamprune_triton.shapes import model as small
from streamprune_triton.shapes import questions

from . import rows
from .cell import Cell
from .exam import Exam, exam
from .marks import GROUPS, Marks
from .network import Network
from .tables import TABLES

STEPS = 16  # of a clip


@dataclass(frozen=True)
class Job:
    """One table of one training seed; the fields are those of `rows.Row` and `exam.Exam`."""

    table: str
    path: Path
    seed: int
    clips: int
    quick: bool
    weights: str


def done(jobs: list[Job], processes: int) -> Iterator[list[rows.Row]]:
    """The rows of each job as it gets done; progress goes to stdout."""
    if processes == 1:
        yield from map(run, jobs)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for future in as_completed([pool.submit(run, job) for job in jobs]):
            yield future.result()


def run(job: Job) -> list[rows.Row]:
    """The rows of a table."""
    told = rows.machine()
    asked = _exam(job.path, job.clips, job.quick)
    found: list[rows.Row] = []
    first: dict[str, Marks] = {}
    since = time.monotonic()
    for cell in TABLES[job.table](asked):
        found += counted(job, cell, first.get(cell.setting), asked.steps, told)
        first.setdefault(cell.setting, cell.marks)
        tell(job, cell, time.monotonic() - since)
        since = time.monotonic()
    return found


@lru_cache(maxsize=1)
def _exam(path: Path, clips: int, quick: bool) -> Exam:
    return exam(Network(*small.load(path)).eval(), clips, STEPS, quick)


def counted(job: Job, cell: Cell, first: Marks | None, steps: int, told: dict[str, Any]) -> list[rows.Row]:
    """A row for each group of types, and behind them for each type if the cell wants it."""
    found = []
    for kind in (*GROUPS, *(questions.TYPES if cell.by_type else ())):
        marks = cell.marks.only(kind)
        if marks.score.asked:
            spread = None if first is None else marks.spread(first.only(kind))
            right, asked = marks.score
            name = (job.table, cell.method, cell.setting, cell.dropped, kind)
            counted = (right, asked, spread, len(marks.kind), steps)
            found.append(rows.Row(*name, *counted, job.seed, job.weights, **told))
    return found


def tell(job: Job, cell: Cell, seconds: float) -> None:
    score = cell.marks.score
    what = f"seed {job.seed} {job.table}, {cell.setting}: {cell.method}"
    dropped = "" if cell.dropped is None else f"{cell.dropped:.1%} dropped"
    print(f"{what:<66} {dropped:>13} {score.share:6.1%} of {score.asked:,}  {seconds:.0f} s", flush=True)
