"""What a training leaves in its folder: a log of JSON lines, and the checkpoint that it goes on from."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Records:
    """The folder of a run.

    Args:
        folder: made where it is not there.
        every: seconds between two checkpoints.
    """

    def __init__(self, folder: str | Path, every: float) -> None:
        self.folder, self._every = Path(folder), every
        self.folder.mkdir(parents=True, exist_ok=True)
        self.seconds = 0.0  # of training, earlier runs included
        self._told = self._saved = time.monotonic()
        self._sums: dict[str, list[float]] = {}

    def count(self, values: dict[str, float]) -> None:
        """Values of one step, for the next report."""
        now = time.monotonic()
        self.seconds, self._told = self.seconds + now - self._told, now
        for name, value in values.items():
            self._sums.setdefault(name, []).append(value)

    def report(self, stage: str, step: int) -> None:
        """Logs the means of what was counted since the last report."""
        means = {name: round(float(np.mean(values)), 4) for name, values in self._sums.items()}
        self._sums = {}
        self.log({"stage": stage, "step": step, "seconds": round(self.seconds), **means})

    def log(self, line: dict[str, Any]) -> None:
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            print(json.dumps(line), file=file)

    def due(self) -> bool:
        """Whether it is time for another checkpoint."""
        return time.monotonic() - self._saved > self._every

    def save(self, state: dict[str, Any]) -> None:
        """Replaces the checkpoint, which is whole at any time. torch's random numbers go on from there as well."""
        random = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
        torch.save(state | {"seconds": self.seconds, "random": random}, self.folder / "checkpoint.tmp")
        os.replace(self.folder / "checkpoint.tmp", self.folder / "checkpoint.pt")
        self._saved = time.monotonic()

    def load(self, device: str) -> dict[str, Any] | None:
        """The checkpoint's state, where there is one."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return None
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        self.seconds = state["seconds"]
        host, *others = (each.cpu() for each in state["random"])
        torch.set_rng_state(host)
        torch.cuda.set_rng_state_all(others)
        return state
