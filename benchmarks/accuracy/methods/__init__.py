"""Which tokens of a clip stay, by method.

| | |
|---|---|
| ours | DTD and MSSAVT, each of them alone, any `PruneConfig` |
| peers | EVS, VidCom2, DivPrune, ToMe, brought to an exact budget |
| blind | random, uniform |
| masks | what the spatial stage may be in place of a checkerboard |
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..batch import AREA, GRID, Batch
from ..exam import Choice
from . import blind, ours, peers

Method = Callable[[torch.Tensor, int], torch.Tensor]  # of features (T, H, W, D) the indices of so many tokens

METHODS: dict[str, Method] = {
    "ours": ours.both,
    "DTD alone": ours.temporal,
    "MSSAVT alone": ours.spatial,
    "EVS": peers.evs,
    "VidCom2": peers.vidcom2,
    "DivPrune": peers.divprune,
    "ToMe-like": peers.tome,
    "random": blind.random,
    "uniform": blind.uniform,
}


def kept(method: Method, x: torch.Tensor, count: int) -> torch.Tensor:
    """(B, count) tokens that stay of features (B, T, AREA, D), each clip by itself."""
    return torch.stack([method(clip.unflatten(1, (GRID, GRID)), count) for clip in x])


def budget(steps: int, dropped: float) -> int:
    """Tokens that stay of a clip."""
    return round((1 - dropped) * steps * AREA)


def exact(method: Method, dropped: float) -> Choice:
    """The same number of tokens of each clip."""

    def choice(batch: Batch) -> torch.Tensor:
        return kept(method, batch.x, budget(batch.x.shape[1], dropped))

    return choice


def everything(batch: Batch) -> torch.Tensor:
    """All tokens of each clip."""
    return torch.arange(batch.x.shape[1] * AREA).expand(batch.size, -1)
