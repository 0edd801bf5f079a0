"""`streamprune_triton.prune` itself: at an exact budget over the clip, or by any configuration."""

from __future__ import annotations

import torch
from torch.nn.utils.rnn import pad_sequence

import streamprune_triton as sp

from ..batch import GRID, Batch
from ..exam import Choice
from ..packing import PADDING


def both(x: torch.Tensor, count: int) -> torch.Tensor:
    """DTD and MSSAVT on a checkerboard, `PruneConfig`'s own mask."""
    return sp.prune(x, sp.PruneConfig(keep_tokens=count, scope="clip", carrier=None)).indices


def temporal(x: torch.Tensor, count: int) -> torch.Tensor:
    """DTD: the least similar to the step before."""
    return sp.prune(x, sp.PruneConfig(keep_tokens=count, scope="clip", mask=None, carrier=None)).indices


def spatial(x: torch.Tensor, count: int) -> torch.Tensor:
    """MSSAVT: the least similar to their neighbours. All are candidates: a checkerboard leaves half of them."""
    rank = sp.prune(x, sp.PruneConfig(temporal_threshold=None, mask="all", carrier=None)).spatial.flatten()
    return rank.argsort(stable=True)[:count].sort().values


def pruned(config: sp.PruneConfig) -> Choice:
    """What a configuration keeps of each clip."""

    def choice(batch: Batch) -> torch.Tensor:
        found = [sp.prune(clip.unflatten(1, (GRID, GRID)), config).indices for clip in batch.x]
        return pad_sequence(found, batch_first=True, padding_value=PADDING)

    return choice
