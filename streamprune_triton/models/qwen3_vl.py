"""Qwen3-VL, dense and mixture of experts: text tells each step's time, DeepStack."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .base import DeepStack
from .positions import Blocks
from .processor import patch_images
from .qwen2_5_vl import Qwen25VL

# Qwen3VLVideoProcessor's own, for a checkpoint that does not say: pixels of a resized video.
SETTINGS: dict[str, Any] = {
    "size": {"shortest_edge": 128 * 32 * 32, "longest_edge": 768 * 32 * 32},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}


class Qwen3VL(Qwen25VL):
    """The adapter of Qwen3-VL, see `base.Adapter`.

    Its video processor shares out a budget of pixels over a clip. A stream has no length, so each step is sized as a
    clip of its own: where a clip would exceed the budget, its frames come out larger here than in a whole clip.
    """

    @staticmethod
    def frame_images(settings: dict[str, Any]) -> Any:
        given = {**SETTINGS, **{name: value for name, value in settings.items() if value is not None}}
        size = {name: pixels // given["temporal_patch_size"] for name, pixels in given["size"].items()}
        return patch_images({**given, "size": size})

    def text(self, messages: list[dict[str, Any]], answer: bool = True) -> list[torch.Tensor]:
        pieces = super().text(messages, answer)
        if _keeps_wrapper():
            return pieces
        last = len(pieces) - 1
        return [piece[int(n > 0) : len(piece) - int(n < last)] for n, piece in enumerate(pieces)]

    def around(self, step: int, fps: float, missing: int = 0, first: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        frame = step * self.frames_per_step
        seconds = (frame / fps + (frame + self.frames_per_step - 1 - missing) / fps) / 2
        return self._ids(f"<{seconds:.1f} seconds><|vision_start|>"), self._ids("<|vision_end|>")

    def layout(self, before: torch.Tensor, grid: tuple[int, int], fps: float, carrier: bool) -> Blocks:
        return Blocks(grid)

    def _clips(self, frames: np.ndarray) -> list[np.ndarray]:
        return list(frames.reshape(-1, self.frames_per_step, *frames.shape[1:]))

    def _deepstack(self, deepstack: DeepStack | None) -> dict[str, Any]:
        if deepstack is None:
            return {}
        levels = deepstack.spread(len(deepstack.at))
        whole = torch.zeros(1, dtype=torch.int64, device=levels[0].device)  # the batch's one row, not a mask
        return {"visual_pos_masks": whole, "deepstack_visual_embeds": [level[None] for level in levels]}


def _keeps_wrapper() -> bool:
    """Whether the processor leaves the vision tokens that a template puts around a whole video, as newer ones do."""
    from transformers import Qwen3VLProcessor

    return hasattr(Qwen3VLProcessor, "replace_video_token")
