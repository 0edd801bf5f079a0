"""Peers of the pruning step, written anew from their published formulas to be timed beside it.

No code of theirs is in here. Each function says where its method comes from, what it computes, what it does less or
more than ours, and how often it waits for the host. Unless its docstring says otherwise a peer returns the keep mask
alone: the gather of the kept tokens, which our step includes, is left out in its favour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .divprune import divprune
from .dtd import dtd, dtd_published
from .dycoke import dycoke
from .eager import Step, eager_step
from .evs import evs
from .sequential import sequential_mssavt
from .tome import Merged, tome_step
from .vidcom2 import vidcom2

__all__ = [
    "PEERS",
    "Merged",
    "Peer",
    "Step",
    "divprune",
    "dtd",
    "dtd_published",
    "dycoke",
    "eager_step",
    "evs",
    "sequential_mssavt",
    "tome_step",
    "vidcom2",
]


@dataclass(frozen=True)
class Peer:
    """A peer at its defaults: called with x (T, H, W, D) it returns the bool keep mask (T, H, W).

    Attributes:
        mask: the function.
        computes: "temporal" (compares frames), "spatial" (tokens regardless of time), "both", or "merge".
    """

    mask: Callable[[torch.Tensor], torch.Tensor]
    computes: str

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.mask(x)


# Thresholds are those of StreamingAssistant, as our defaults are; budgets keep a quarter where the method leaves a
# choice, DyCoke's ratio is its own, and a ToMe step can merge no more than half.
PEERS: dict[str, Peer] = {
    "evs": Peer(lambda x: evs(x, 0.75), "temporal"),
    "dtd": Peer(lambda x: dtd(x, 0.2), "temporal"),
    "dtd_published": Peer(lambda x: dtd_published(x, 0.2), "temporal"),
    "dycoke": Peer(lambda x: dycoke(x, 0.7), "temporal"),
    "vidcom2": Peer(lambda x: vidcom2(x, 0.25), "both"),
    "divprune": Peer(lambda x: divprune(x, max(1, x.shape[:3].numel() // 4)), "spatial"),
    "tome_step": Peer(lambda x: tome_step(x, x.shape[1:3].numel() // 2).keep, "merge"),
    "sequential_mssavt": Peer(lambda x: sequential_mssavt(x, 0.2, 0.5), "both"),
    "eager_step": Peer(lambda x: eager_step(x).keep, "both"),
}
