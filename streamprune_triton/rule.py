"""A PruneConfig in the form that the operators and both backends take: plain numbers, no None."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from .config import PruneConfig
from .transfer import upload

NEVER = 2.0  # a threshold that no cosine exceeds


class Rule(NamedTuple):
    """What to drop. Fields follow PruneConfig; 0 or a negative number stands for None."""

    mask: torch.Tensor | None  # (H, W) bool on the features' device, for mask_kind "tensor"
    mask_kind: str  # a name of config.MASKS, "tensor", or "none"
    temporal_threshold: float
    spatial_threshold: float
    survivors: bool
    last_kept: bool
    keyframe_interval: int
    keep_tokens: int
    clip: bool
    max_tokens: int
    carrier: str  # "all", "kept" or "none"

    @classmethod
    def of(cls, config: PruneConfig, device: torch.device) -> Rule:
        mask = config.mask
        is_tensor = isinstance(mask, torch.Tensor)
        budget = config.keep_tokens is not None
        return cls(
            upload(mask, device) if isinstance(mask, torch.Tensor) else None,
            "tensor" if is_tensor else str(mask or "none"),
            _threshold(config.temporal_threshold, budget),
            _threshold(config.spatial_threshold, budget),
            config.neighbors == "survivors",
            config.reference == "last_kept",
            config.keyframe_interval or 0,
            -1 if config.keep_tokens is None else config.keep_tokens,
            budget and config.scope == "clip",
            -1 if config.max_tokens is None else config.max_tokens,
            config.carrier or "none",
        )


def _threshold(value: float | None, budget: bool) -> float:
    """Rounded to float32, in which similarities are compared."""
    return NEVER if budget or value is None else float(np.float32(value))
