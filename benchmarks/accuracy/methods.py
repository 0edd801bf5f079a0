"""Which tokens of a clip stay, by method, at an exact budget: ours, its two parts, a peer, two that are blind.

The cosine of DTD and that of EVS are the same, and under a budget over the clip both keep the tokens that differ most
from the step before: they part in ties alone, and where the budget is below a step's tokens, of which EVS keeps one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

import streamprune_triton as sp
from streamprune_triton import compat

from .batch import AREA, GRID

Method = Callable[[torch.Tensor, int], torch.Tensor]


def both(x: torch.Tensor, count: int) -> torch.Tensor:
    """DTD and MSSAVT on a checkerboard, `PruneConfig`'s own mask."""
    return sp.prune(x, sp.PruneConfig(keep_tokens=count, scope="clip")).indices


def temporal(x: torch.Tensor, count: int) -> torch.Tensor:
    """DTD: the least similar to the step before."""
    return sp.prune(x, sp.PruneConfig(keep_tokens=count, scope="clip", mask=None)).indices


def spatial(x: torch.Tensor, count: int) -> torch.Tensor:
    """MSSAVT: the least similar to their neighbours. All are candidates: a checkerboard leaves half of them."""
    rank = sp.prune(x, sp.PruneConfig(temporal_threshold=None, mask="all")).spatial.flatten()
    return rank.argsort(stable=True)[:count].sort().values


def evs(x: torch.Tensor, count: int) -> torch.Tensor:
    """EVS, as vLLM and SGLang have it."""
    share = 1 - (count + 0.5) / x[..., 0].numel()  # what it rounds down is `count`
    return compat.compute_retention_mask(x, x.shape[:3], 1, share).nonzero()[:, 0]


def random(x: torch.Tensor, count: int) -> torch.Tensor:
    """Any, the same for the same features' shape and sum."""
    seed = int(x.double().sum().item() * 1e6) % (1 << 31)
    return torch.randperm(x[..., 0].numel(), generator=torch.Generator().manual_seed(seed))[:count].sort().values


def uniform(x: torch.Tensor, count: int) -> torch.Tensor:
    """Evenly spaced in the order of the sequence."""
    return ((torch.arange(count) + 0.5) * x[..., 0].numel() / count).long()


METHODS: dict[str, Method] = {
    "ours": both,
    "DTD alone": temporal,
    "MSSAVT alone": spatial,
    "EVS": evs,
    "random": random,
    "uniform": uniform,
}


def kept(method: Method, x: torch.Tensor, count: int) -> torch.Tensor:
    """(B, count) tokens that stay of features (B, T, AREA, D), each clip by itself."""
    return torch.stack([method(clip.unflatten(1, (GRID, GRID)), count) for clip in x])


def budget(steps: int, dropped: float) -> int:
    """Tokens that stay of a clip."""
    return round((1 - dropped) * steps * AREA)
