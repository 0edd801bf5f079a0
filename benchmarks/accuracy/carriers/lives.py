"""Until when each step's visual tokens and its carrier are seen: by the rules of a session's memory, and by others.

Step n is read at time 2 n; a question about it is read at 2 n + 1. What dies at t is not seen from t on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

import streamprune_triton as sp
from streamprune_triton.streaming.keeping import Death, Keeping

FOREVER = int(np.iinfo(np.int64).max)
Rule = Callable[[sp.Memory], Keeping]


class Oldest(Keeping):
    """First in, first out, in place of the package's choice between neighbours that are alike."""

    def _merge(self, time: int) -> Death:
        block, _ = self.carriers.pop(0)
        self.similar.pop(0)
        return Death(block, True, time)


class Even(Keeping):
    """Leaves carriers evenly spread over the stream: the one between the nearest neighbours goes, the oldest such."""

    def _merge(self, time: int) -> Death:
        blocks = np.array([block for block, _ in self.carriers])
        inner = (blocks[2:] - blocks[:-2])[: max(1, len(blocks) - 1 - self._recent)]
        block, _ = self.carriers.pop(1 + int(inner.argmin()) if len(inner) else 0)
        self.similar.pop(0)  # counts alone
        return Death(block, True, time)


RULES: dict[str, Rule] = {"most alike": Keeping, "oldest": Oldest, "even": Even}


def lives(memory: sp.Memory, counts: np.ndarray, carriers: np.ndarray, rule: Rule = Keeping) -> np.ndarray:
    """(T, 2) int64: when the visual tokens of each step die, and when its carrier does; FOREVER where they do not.

    Args:
        memory: in "tokens" mode there are no carriers: nothing sees them.
        counts: (T,) visual tokens of each step.
        carriers: (T, D) embeddings.
        rule: which carrier goes when there are too many.
    """
    keeping = rule(memory)
    dies = np.full((len(counts), 2), FOREVER)
    for step, count in enumerate(counts):
        for death in keeping.admit(step, int(count), carriers[step] if memory.carriers else None):
            dies[death.block, int(death.carrier)] = death.time
    if not memory.carriers:
        dies[:, 1] = 2 * np.arange(len(counts))
    return dies


def batched(
    memories: list[sp.Memory], keep: torch.Tensor, carriers: torch.Tensor, area: int, rule: Rule = Keeping
) -> torch.Tensor:
    """(B, T, 2) of `lives`, for kept tokens (B, K), -1 for none, of steps of `area`, and carriers (B, T, D)."""
    steps = carriers.shape[1]
    counts = [np.bincount(row[row >= 0] // area, minlength=steps) for row in keep.cpu().numpy()]
    embeddings = carriers.detach().float().cpu().numpy()
    each = zip(memories, counts, embeddings, strict=True)
    return torch.from_numpy(np.stack([lives(memory, count, rows, rule) for memory, count, rows in each]))
