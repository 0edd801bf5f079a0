"""Ways to ask about a clip: what is read, and what of it is remembered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

import streamprune_triton as sp

from ..batch import AREA, Batch
from . import curriculum, lives
from .network import CarrierNetwork
from .sequences import entries, times, with_carriers


@dataclass(frozen=True)
class Mode:
    """One way to remember.

    Attributes:
        memory: as a session's. None: carriers are all that is ever read.
        rule: of `lives.RULES`, which carrier goes.
        blank: with zero in place of each carrier's embedding.
    """

    memory: sp.Memory | None
    rule: str = "most alike"
    blank: bool = False

    def dies(self, batch: Batch, keep: torch.Tensor) -> torch.Tensor:
        """(B, T, 2) of `lives.batched`."""
        assert self.memory is not None
        carriers = with_carriers(batch.x)[:, :, AREA]
        return lives.batched([self.memory] * batch.size, keep, carriers, AREA, lives.RULES[self.rule])

    @torch.no_grad()
    def correct(self, net: CarrierNetwork, batch: Batch, keep: torch.Tensor) -> torch.Tensor:
        """(B, Q) bool: which answers are right when tokens (B, K) of each clip are read."""
        if self.memory is None:
            keep, dies = curriculum.nothing(batch)
        else:
            dies = self.dies(batch, keep)
        packed, hidden = net.asked(batch, keep, dies, torch.zeros(batch.size, dtype=torch.bool), self.blank)
        return net.answered(batch, packed, hidden[-1])[1]

    def held(self, batch: Batch, keep: torch.Tensor) -> float:
        """The most rows that the cache of a clip holds after any of its steps, over the clip's tokens: the mean."""
        steps = batch.x.shape[1]
        if self.memory is None:
            return 1 / AREA
        rows = entries(keep, steps)
        born, dies = times(rows, self.dies(batch, keep))
        end = 2 * torch.arange(steps)[:, None, None] + 1
        alive = ((born < end) & (dies > end)).sum(-1)  # (T, B)
        return float(np.mean(alive.amax(0).numpy())) / (steps * AREA)


ALONE = Mode(None)
CARRIERS = Mode(sp.Memory("carriers"))
TOKENS = Mode(sp.Memory("tokens"))


def hybrid(recent: int) -> Mode:
    """The newest steps keep their tokens."""
    return Mode(sp.Memory("hybrid", recent_frames=recent))
