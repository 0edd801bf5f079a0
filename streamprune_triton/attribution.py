"""Which stage dropped a token."""

from __future__ import annotations

import numpy as np
import torch

from .config import PruneConfig
from .reference import candidates
from .result import PruneResult
from .rule import Rule

KEPT, BY_TIME, BY_SPACE, NOT_FINITE = range(4)


def attribute(result: PruneResult, config: PruneConfig) -> np.ndarray:
    """The fate of every token: (T, H, W) uint8 of KEPT, BY_TIME, BY_SPACE, NOT_FINITE.

    A token whose temporal similarity is above its threshold is dropped by time, that stage being the first; one that
    only the spatial similarity condemns, by space. What a budget drops (keep_tokens, or max_tokens below the
    thresholds) goes to the larger of the two similarities, ties to time. NOT_FINITE are dropped tokens without any
    similarity, in results that count non-finite ones.
    """
    return fates(result, config).cpu().numpy()


def fates(result: PruneResult, config: PruneConfig) -> torch.Tensor:
    """As `attribute`, on the result's device, without a wait for it."""
    keep, temporal, spatial = result.keep, result.temporal, result.spatial
    t, h, w = keep.shape
    rule = Rule.of(config, keep.device)
    numbers = result.state.frames - t + torch.arange(t, device=keep.device)
    spatial = spatial.masked_fill(~candidates(h, w, numbers, rule), torch.nan)
    by_time = temporal > rule.temporal_threshold
    by_space = ~by_time & (spatial > rule.spatial_threshold)
    larger_in_space = spatial.nan_to_num(nan=-1) > temporal.nan_to_num(nan=-1)
    fate = torch.full((t, h, w), BY_TIME, dtype=torch.uint8, device=keep.device)
    fate.masked_fill_(by_space | (~by_time & larger_in_space), BY_SPACE)
    fate.masked_fill_(temporal.isnan() & result.spatial.isnan() & (result.nonfinite > 0), NOT_FINITE)
    return fate.masked_fill_(keep, KEPT)


def budgeted(config: PruneConfig) -> bool:
    """Whether a budget takes part in the decision, so that attribution is by the larger similarity."""
    return config.keep_tokens is not None or config.max_tokens is not None
