"""Qwen3.5, dense and mixture of experts: Qwen3-VL's prompts and positions, attention linear in most layers."""

from __future__ import annotations

import torch

from .positions import Blocks
from .qwen3_vl import Qwen3VL


class Qwen35(Qwen3VL):
    """The adapter of Qwen3.5, for `pruned`; see `base.Adapter`.

    No session runs on it. Its layers of linear attention (gated delta rule, arXiv 2412.06464) sum up all they have
    read in one state: no frame can leave it, and no mask can hide a frame's tokens from the frames behind it.
    """

    sums_up = True

    def layout(self, before: torch.Tensor, grid: tuple[int, int], fps: float, carrier: bool) -> Blocks:
        """Raises ValueError."""
        kind = self.model.config.model_type
        raise ValueError(
            f"model must not have linear attention, whose state no frame can leave, got {kind}: use pruned"
        )
