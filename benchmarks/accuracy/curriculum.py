"""What the language model is shown when: clips grow from 2 to 32 steps, and most are pruned."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from .batch import AREA, Batch
from .network import chosen

# from which share of the training on: how often clips of so many steps come
STAGES: tuple[tuple[float, dict[int, float]], ...] = (
    (0.00, {2: 0.5, 4: 0.5}),
    (0.06, {2: 0.1, 4: 0.5, 8: 0.4}),
    (0.16, {4: 0.2, 8: 0.5, 16: 0.3}),
    (0.35, {4: 0.1, 8: 0.3, 16: 0.4, 32: 0.2}),
)
PRUNED = 0.7  # share of batches with dropped tokens
WAYS = ("temporal", "spatial", "both", "random")  # equally often, so that no rule of dropping is at home
QUESTIONS = 10  # a clip
ROWS = 3500  # of text and visual tokens in a batch


class Task(NamedTuple):
    """A batch to be drawn."""

    steps: int
    clips: int
    kept: int  # visual tokens of each clip
    way: str  # one of WAYS


def mixture(progress: float) -> dict[int, float]:
    """Steps a clip, and how often, at a share of the training."""
    return next(mix for begin, mix in reversed(STAGES) if progress >= begin)


def draw(rng: np.random.Generator, progress: float, text: int, rows: int = ROWS) -> Task:
    """The next batch's task.

    Args:
        rng: NumPy's.
        progress: share of the training that is over.
        text: rows of text of a clip with its questions.
        rows: in all.
    """
    mix = mixture(progress)
    steps = int(rng.choice(list(mix), p=list(mix.values())))
    share = 1 - rng.uniform(0.4, 0.92) if rng.random() < PRUNED else 1.0
    kept = max(6, round(share * steps * AREA))
    return Task(steps, max(3, rows // (text + kept)), kept, WAYS[rng.integers(len(WAYS))])


def keep(task: Task, batch: Batch) -> torch.Tensor:
    """(B, kept) the tokens that stay: the least redundant ones by the task's way."""
    return chosen(batch.x, task.kept, task.way, noise=0.05)
