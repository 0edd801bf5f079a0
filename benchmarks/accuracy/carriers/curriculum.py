"""What the model is shown in the two stages."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

import streamprune_triton as sp

from ..batch import AREA, Batch, asked, make
from ..curriculum import PRUNED, WAYS
from ..network import Network, chosen
from . import lives
from .sequences import with_carriers

# how often clips of so many steps come
ONE = {2: 0.1, 4: 0.3, 8: 0.4, 16: 0.2}
TWO = {4: 0.1, 8: 0.3, 16: 0.35, 32: 0.25}
TOWER_STEPS = 96  # of a batch of the first stage, all clips together
QUESTIONS_ONE, QUESTIONS_TWO = 16, 10  # a clip


class Task(NamedTuple):
    """A batch of the second stage, to be drawn."""

    steps: int
    clips: int
    kept: int  # visual tokens of each clip
    way: str  # one of WAYS


def first(net: Network, rng: np.random.Generator, seed: int, device: str) -> Batch:
    """A batch of the first stage: new clips, of which the tower is to learn."""
    steps = int(rng.choice(list(ONE), p=list(ONE.values())))
    clips = make(seed, TOWER_STEPS // steps, steps)
    labels = {name: value.to(device) for name, value in clips.labels.items()}
    return asked(rng, net.features(clips.frames.to(device)).float(), labels, clips.known, QUESTIONS_ONE)


def second(rng: np.random.Generator, text: int, rows: int) -> Task:
    """The next task of the second stage, in about so many rows of which `text` a clip are text."""
    steps = int(rng.choice(list(TWO), p=list(TWO.values())))
    share = 1 - rng.uniform(0.4, 0.92) if rng.random() < PRUNED else 1.0
    kept = max(6, round(share * steps * AREA))
    return Task(steps, max(3, rows // (text + kept + steps)), kept, WAYS[rng.integers(len(WAYS))])


def keep(task: Task, batch: Batch) -> torch.Tensor:
    """(B, kept) the tokens that stay."""
    return chosen(batch.x, task.kept, task.way, noise=0.05)


def memory(rng: np.random.Generator, steps: int) -> sp.Memory:
    """What a clip's sequence remembers: in six of ten carriers alone, else carriers behind a window of some steps; in
    four of ten so few carriers that some have to go."""
    recent = 0 if rng.random() < 0.6 else int(rng.integers(1, 9 if rng.random() < 0.6 else max(10, steps)))
    most = int(rng.integers(4, max(5, steps))) if rng.random() < 0.4 else steps
    return sp.Memory("hybrid", recent_frames=recent, max_carriers=most)


def dies(rng: np.random.Generator, batch: Batch, keep: torch.Tensor) -> torch.Tensor:
    """(B, T, 2) of `lives.batched`, a memory of its own for each clip."""
    memories = [memory(rng, batch.x.shape[1]) for _ in range(batch.size)]
    return lives.batched(memories, keep, with_carriers(batch.x)[:, :, AREA], AREA).to(batch.x.device)


def nothing(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 0) no token, and (B, T, 2): every carrier lives for ever."""
    empty = torch.empty(batch.size, 0, dtype=torch.int64, device=batch.x.device)
    return empty, torch.full((*batch.x.shape[:2], 2), lives.FOREVER, device=batch.x.device)
