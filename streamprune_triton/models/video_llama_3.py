"""VideoLLaMA 3: text tells each frame's time, 1-D positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..transfer import upload
from .base import Adapter
from .positions import Flat, Layout
from .processor import FrameProcessor, patch_images
from .qwen2_5_vl import Qwen25VL

# VideoLlama3VideoProcessor's own, for a checkpoint that does not say.
SETTINGS: dict[str, Any] = {"temporal_patch_size": 1, "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


class VideoLlama3(Qwen25VL):
    """The adapter of VideoLLaMA 3, see `base.Adapter`.

    Its processor can drop tokens of patches that hardly change (`use_token_compression`). Here pruning takes that
    place: a session never compresses, and prompts must not be compressed. Its video processor also shares out a
    budget of pixels over a clip; here each frame is sized as a clip of its own.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        Adapter.__init__(self, model, processor)
        self._derived = {}

    @staticmethod
    def frame_images(settings: dict[str, Any]) -> Any:
        return patch_images({**SETTINGS, **{name: value for name, value in settings.items() if value is not None}})

    def around(self, step: int, fps: float, missing: int = 0, first: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        comma = "" if first or not step else ","
        return self._ids(f"{comma}Time {step / fps:.1f}s:"), self._ids("")

    def layout(self, before: torch.Tensor, grid: tuple[int, int], fps: float, carrier: bool) -> Layout:
        return Flat(grid, carrier)

    def grids(self, input_ids: torch.Tensor, inputs: dict[str, Any]) -> list[list[torch.Tensor]]:
        kept = inputs.get("video_compression_mask")
        if kept is not None and not bool(kept.all()):
            raise ValueError("video_compression_mask must be True: give the processor use_token_compression=False")
        if inputs.get("video_grid_thw") is None:
            raise ValueError("video_grid_thw must be there: generate() has encoded the video and forgotten its size")
        return super().grids(input_ids, inputs)

    def _clips(self, frames: np.ndarray) -> list[np.ndarray]:
        return list(frames[:, None])

    def _tower(self, patches: torch.Tensor, grid: torch.Tensor) -> Any:
        known = self._known(grid)
        grid = grid if known else upload(grid, patches.device)
        return self.model.model.get_video_features(patches, grid, torch.full_like(grid[:, 0], self._merge), **known)

    @property
    def _merge(self) -> int:
        stand_in = isinstance(self.processor, FrameProcessor)
        settings = getattr(self.processor, "image_processor" if stand_in else "video_processor", None)
        return int(getattr(settings, "merge_size", SETTINGS["merge_size"]))
