"""Result rows of the model layer: one number of one provider each, and where it was measured."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import rows as table

NAMES = ("device", "driver", "python", "torch", "triton", "transformers", "commit", "command")


@dataclass(frozen=True)
class Row:
    """One quantity of one provider in one scenario; percentiles over `runs` of them.

    Attributes:
        scenario: "one stream", "16 streams", "long stream", "clip".
        provider: "ours, carriers", "ours, tokens" (the memory's mode), "unmodified", "pruned", "dtd", "evs".
        quantity: "frames a second", of all streams together; "memory"; "time to first token" and "whole answer", of a
            clip from its raw frames on; "pruning and upkeep", their share of the time; or a stage of `stages.STAGES`:
            of a raw frame of a stream, or of a clip and its whole answer.
        unit: "1/s", "ms", "MiB", "%".
        model: what ran, with random weights.
        tokens, kept: visual tokens of a step (two raw frames of Qwen2.5-VL), and how many of them stay.
        frames: raw frames that the session had seen, or that the clip has.
        error: the RMS difference of the checked logits, as a share of their own RMS, in float32.
    """

    scenario: str
    provider: str
    quantity: str
    unit: str
    p20: float
    p50: float
    p80: float
    runs: int
    model: str
    dtype: str
    frame: str
    tokens: int
    kept: int
    frames: int
    error: float
    device: str
    driver: str
    python: str
    torch: str
    triton: str
    transformers: str
    commit: str
    command: str


def machine(device: torch.device) -> dict[str, str]:
    """The columns that are the same for a whole run."""
    import transformers

    command = shlex.join(["python3", "-m", "benchmarks.end_to_end", *sys.argv[1:]])
    told = table.machine(device) | {"transformers": transformers.__version__, "command": command}
    return {name: told[name] for name in NAMES}


def write(path: Path, rows: Iterable[Row]) -> None:
    """Writes the rows as CSV, all or nothing."""
    table.write(path, rows, Row)


def read(path: Path) -> list[Row]:
    """The rows of a file. Raises ValueError where it is not of this schema."""
    return table.read(path, Row)
