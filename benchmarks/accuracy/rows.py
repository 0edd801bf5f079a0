"""Result rows of the shapes task: how often one method is right on one type of question, and where that was counted."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import rows as table
from .measure import Score

NAMES = ("device", "python", "torch", "transformers", "commit", "command")
ALL = "all"  # in place of a type: every question counts once


@dataclass(frozen=True)
class Row:
    """Right answers of one method to one type of question.

    Attributes:
        method: of `methods.METHODS`; "unpruned"; or "majority", "blind", "last step" of the baselines.
        dropped: share of each clip's visual tokens that is dropped; None for the baselines.
        kind: the type of question, or ALL.
        right, asked: counts.
        clips, steps: how many, and of how many steps each.
        weights: first 12 digits of the file's SHA-256.
    """

    method: str
    dropped: float | None
    kind: str
    right: int
    asked: int
    clips: int
    steps: int
    weights: str
    device: str
    python: str
    torch: str
    transformers: str
    commit: str
    command: str

    @property
    def score(self) -> Score:
        return Score(self.right, self.asked)


def machine() -> dict[str, str]:
    """The columns that are the same for a whole run."""
    import transformers

    command = " ".join(["python3", "-m", "benchmarks.accuracy", *sys.argv[1:]])
    told = table.machine(torch.device("cpu")) | {"transformers": transformers.__version__, "command": command}
    return {name: told[name] for name in NAMES}


def digest(path: str | os.PathLike[str]) -> str:
    """What names a file of weights in a row."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]


def write(path: Path, rows: Iterable[Row]) -> None:
    """Writes the rows as CSV, all or nothing."""
    table.write(path, rows, Row)


def read(path: Path) -> list[Row]:
    """The rows of a file. Raises ValueError where it is not of this schema."""
    return table.read(path, Row)
