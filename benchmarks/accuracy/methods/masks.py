"""What the spatial stage may be in place of MSSAVT on a checkerboard, at an exact budget behind the same DTD."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

import streamprune_triton as sp

from . import Method
from .blind import generator

_SIDES = ((0, 1), (0, -1), (1, 0), (-1, 0))  # row and column of a neighbour, from the token


def masked(mask: str | torch.Tensor | None, x: torch.Tensor, count: int) -> torch.Tensor:
    """Tokens that stay under a mask of `PruneConfig`."""
    return sp.prune(x, sp.PruneConfig(mask=mask, keep_tokens=count, scope="clip", carrier=None)).indices


def random_mask(x: torch.Tensor, count: int) -> torch.Tensor:
    """Half of the places of a frame, drawn anew for each clip."""
    h, w = x.shape[1:3]
    mask = torch.zeros(h * w, dtype=torch.bool)
    mask[torch.randperm(h * w, generator=generator(x))[: h * w // 2]] = True
    return masked(mask.view(h, w), x, count)


def anywhere(x: torch.Tensor, count: int) -> torch.Tensor:
    """On a checkerboard, but the highest similarity to any other token of the frame counts."""
    h, w = x.shape[1:3]
    unit = torch.nn.functional.normalize(x.flatten(1, 2), dim=-1)
    similarity = unit @ unit.mT
    similarity.diagonal(dim1=1, dim2=2).fill_(-1.0)
    odd = (torch.arange(h)[:, None] + torch.arange(w)) % 2 == 1
    spatial = similarity.amax(2)
    alone = torch.full_like(spatial, -1.0)
    alone[0] = (spatial[0] - 1) / 2  # in the first step, as `PruneConfig` says
    rank = _temporal(x).flatten(1).maximum(torch.where(odd.flatten(), spatial, alone))
    return rank.flatten().argsort(stable=True)[:count].sort().values


def sequential(x: torch.Tensor, count: int) -> torch.Tensor:
    """No mask: one token after the other goes, the most redundant, compared with neighbours that are still there."""
    h, w = x.shape[1:3]
    rank = _temporal(x).numpy()
    beside = _sides(x).numpy()
    left = np.ones(rank.shape, bool)
    rated = np.maximum(rank, beside.max(0))
    for _ in range(left.size - count):
        n, i, j = np.unravel_index(left.size - 1 - rated.ravel()[::-1].argmax(), left.shape)  # ties: the last goes
        left[n, i, j], rated[n, i, j] = False, -np.inf
        for side, (di, dj) in enumerate(_SIDES):
            y, z = i - di, j - dj  # the token that has (i, j) on this side
            if 0 <= y < h and 0 <= z < w:
                beside[side, n, y, z] = -1.0
                if left[n, y, z]:
                    rated[n, y, z] = max(rank[n, y, z], beside[:, n, y, z].max())
    return torch.from_numpy(left.ravel().nonzero()[0])


MASKS: dict[str, Method] = {
    "checkerboard": partial(masked, "checkerboard"),
    "alternate": partial(masked, "alternate"),
    "rows": partial(masked, "rows"),
    "columns": partial(masked, "columns"),
    "random mask": random_mask,
    "all at once": partial(masked, "all"),
    "one by one": sequential,
    "any of the frame": anywhere,
    "none (DTD alone)": partial(masked, None),
}


def _temporal(x: torch.Tensor) -> torch.Tensor:
    """(T, H, W) similarity to the step before, -1 in the first."""
    return sp.prune(x, sp.PruneConfig(mask=None, carrier=None)).temporal.nan_to_num(nan=-1.0)


def _sides(x: torch.Tensor) -> torch.Tensor:
    """(4, T, H, W) similarity to the neighbour on each of _SIDES, -1 where there is none."""
    t, h, w, _ = x.shape
    unit = torch.nn.functional.normalize(x, dim=-1)
    found = torch.full((4, t, h, w), -1.0)
    found[0, :, :, :-1] = found[1, :, :, 1:] = (unit[:, :, 1:] * unit[:, :, :-1]).sum(-1)
    found[2, :, :-1] = found[3, :, 1:] = (unit[:, 1:] * unit[:, :-1]).sum(-1)
    return found
