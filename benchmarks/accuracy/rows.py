"""Result rows of the shapes task: how often one method is right on one kind of question, and where that was counted."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import rows as table
from .measure import Score

NAMES = ("device", "python", "torch", "transformers", "commit", "command")


@dataclass(frozen=True)
class Row:
    """Right answers of one method under one setting to one kind of question.

    Attributes:
        table: the experiment, of `tables.TABLES`.
        method: what is compared with the other methods of the same table and setting, the first of which is its
            reference.
        setting: what these have in common, as in "85%" or "texture 92%"; may be empty.
        dropped: share of the visual tokens that is dropped, as asked for or as measured; None for baselines.
        kind: a type of question, or a group of `marks.GROUPS`.
        right, asked: counts.
        spread: standard error, over clips, of the share less the reference's; None for the reference itself.
        clips, steps: how many, and of how many steps each.
        seed: of the training.
        weights: first 12 digits of the file's SHA-256.
    """

    table: str
    method: str
    setting: str
    dropped: float | None
    kind: str
    right: int
    asked: int
    spread: float | None
    clips: int
    steps: int
    seed: int
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

    command = shlex.join(["python3", "-m", "benchmarks.accuracy", *sys.argv[1:]])
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
