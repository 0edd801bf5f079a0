"""Which stage dropped a token."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from .config import PruneConfig
from .reference import candidates
from .result import PruneResult
from .rule import Rule
from .transfer import download

KEPT, BY_TIME, BY_SPACE, NOT_FINITE = range(4)


def attribute(result: PruneResult, config: PruneConfig) -> np.ndarray:
    """The fate of every token: (T, H, W) uint8 of KEPT, BY_TIME, BY_SPACE, NOT_FINITE.

    A token whose temporal similarity is above its threshold is dropped by time, that stage being the first; one that
    only the spatial similarity condemns, by space. What a budget drops (keep_tokens, or max_tokens below the
    thresholds) goes to the larger of the two similarities, ties to time. Of the tokens without any similarity, which
    fall to a budget or are not finite, the next frame or the state tells which: in results that count non-finite ones,
    a finite one counts as NOT_FINITE only where the next frame's token at its place is not finite, or where
    reference="last_kept", which tells nothing of dropped tokens.
    """
    return fate(Grounds(*download(grounds(result))), config)


class Grounds(NamedTuple):
    """What the fates of a result's tokens follow from."""

    keep: torch.Tensor  # (T, H, W) bool
    temporal: torch.Tensor  # (T, H, W) float32
    spatial: torch.Tensor  # (T, H, W) float32
    nonfinite: torch.Tensor  # () int64
    frames: torch.Tensor  # () int64, of the stream up to here
    squared_norms: torch.Tensor  # (H, W) float32, the state's


def grounds(result: PruneResult) -> Grounds:
    state = result.state
    return Grounds(result.keep, result.temporal, result.spatial, result.nonfinite, state.frames, state.squared_norms)


def fate(known: Grounds, config: PruneConfig) -> np.ndarray:
    """As `attribute`, of what is on the host: there it takes less time than the launches on a device."""
    keep, temporal, spatial, nonfinite, frames, squared_norms = known
    t, h, w = keep.shape
    rule, numbers = Rule.of(config, keep.device), frames - t + torch.arange(t, device=keep.device)
    candidate = spatial.masked_fill(~candidates(h, w, numbers, rule), torch.nan)
    by_time = temporal > rule.temporal_threshold
    by_space = ~by_time & (candidate > rule.spatial_threshold)
    larger_in_space = candidate.nan_to_num(nan=-1) > temporal.nan_to_num(nan=-1)
    found = torch.full((t, h, w), BY_TIME, dtype=torch.uint8, device=keep.device)
    found.masked_fill_(by_space | (~by_time & larger_in_space), BY_SPACE)
    if nonfinite > 0:
        unlike = temporal.isnan() & spatial.isnan()
        if not rule.last_kept:  # else a token that was dropped is no reference
            unlike &= torch.cat([temporal, squared_norms[None]])[1:].isnan()  # what came next has none either
        found.masked_fill_(unlike, NOT_FINITE)
    return found.masked_fill_(keep, KEPT).numpy()


def budgeted(config: PruneConfig) -> bool:
    """Whether a budget takes part in the decision, so that attribution is by the larger similarity."""
    return config.keep_tokens is not None or config.max_tokens is not None
