"""Qwen2.5-VL and Qwen2-VL. Every number comes from the model, its config or its processor."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..transfer import upload
from .base import Adapter, Features, inference
from .positions import Clocked, Layout
from .processor import FrameProcessor, patch_images
from .towers import precomputed

VIDEO = 2  # of mm_token_type_ids
GRIDS = 8  # whose derived numbers stay, for good: what has been captured in a CUDA graph reads them where they are


class Qwen25VL(Adapter):
    """The adapter of Qwen2.5-VL and Qwen2-VL, see `base.Adapter`. Not with transformers 5.3 to 5.5."""

    needs = ("tokenizer", "image_processor", "apply_chat_template")
    frame_images = staticmethod(patch_images)

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        self._vision = model.config.vision_config
        self.frames_per_step = int(self._vision.temporal_patch_size)
        self._derived: dict[tuple[int, ...], dict[str, Any]] = {}

    def pixels(self, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(patches, grid (1, 3)), as the video processor's."""
        if isinstance(self.processor, FrameProcessor):
            return self.processor.patches(frames, self.model.device)
        processed = self._processed(self._clips(frames))
        grids = processed["video_grid_thw"]  # of clips of one size
        return processed["pixel_values_videos"], torch.cat([grids[:, :1].sum(0), grids[0, 1:]])[None]

    def features(self, pixels: tuple[torch.Tensor, torch.Tensor]) -> Features:
        return self.many_features([pixels])[0]

    @inference
    def many_features(self, pixels: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[Features]:
        patches, grid = (torch.cat(each) for each in zip(*pixels, strict=True))
        output = self._tower(upload(patches, self.model.device), grid)
        levels = getattr(output, "deepstack_features", None) or ()
        every = [self._cut(rows, grid.tolist()) for rows in (getattr(output, "pooler_output", output), *levels)]
        return [Features(x, tuple(rest)) for x, *rest in zip(*every, strict=True)]

    def layout(self, before: torch.Tensor, grid: tuple[int, int], fps: float, carrier: bool) -> Layout:
        rule, config = self.model.model.get_rope_index, self.model.config
        takes = inspect.signature(rule).parameters

        def ask(t: int, h: int, w: int, seconds: float | None) -> torch.Tensor:
            video = torch.full((t * h * w,), config.video_token_id)
            ids = torch.cat([before, video, torch.tensor([config.vision_end_token_id])])[None]
            seconds = self.frames_per_step / fps if seconds is None else seconds
            given = {
                "video_grid_thw": torch.tensor([[t, h * self._merge, w * self._merge]]),
                "second_per_grid_ts": torch.tensor([seconds]),  # float32, as a processor hands it over
                "mm_token_type_ids": (ids == config.video_token_id).int() * VIDEO,
            }
            positions, _ = rule(ids, **{name: value for name, value in given.items() if name in takes})
            return positions[:, 0, len(before) :] - len(before)

        return Clocked(ask, grid)

    def grids(self, input_ids: torch.Tensor, inputs: dict[str, Any]) -> list[list[torch.Tensor]]:
        sizes = iter(inputs["video_grid_thw"].tolist())
        found: list[list[torch.Tensor]] = []
        for row in input_ids:
            at = (row == self.video_token_id).nonzero().flatten()
            found.append([])
            while len(at):
                t, h, w = self._shape(next(sizes))
                found[-1].append(at[: t * h * w].view(t, h, w))
                at = at[t * h * w :]
        return found

    def _tower(self, patches: torch.Tensor, grid: torch.Tensor) -> Any:
        """The output for patches on the device and their grid (N, 3) on the host."""
        known = self._known(grid)
        return self.model.model.get_video_features(patches, grid if known else upload(grid, patches.device), **known)

    def _known(self, grid: torch.Tensor) -> dict[str, Any]:
        """What the tower need not derive itself from a grid (N, 3) on the host; with it the grid stays there."""
        key = tuple(grid.flatten().tolist())
        known = self._derived[key] if key in self._derived else precomputed(self.model, grid, self._merge)
        if len(self._derived) < GRIDS:
            self._derived[key] = known
        return known

    def _clips(self, frames: np.ndarray) -> list[np.ndarray]:
        """What the video processor is to size as a video of its own."""
        return [frames]

    @property
    def _merge(self) -> int:
        return int(self._vision.spatial_merge_size)

    def _shape(self, grid: list[int]) -> tuple[int, int, int]:
        """(T, H, W) of tokens, from patches."""
        return grid[0], grid[1] // self._merge, grid[2] // self._merge

    def _cut(self, rows: torch.Tensor | Sequence[torch.Tensor], grids: list[list[int]]) -> list[torch.Tensor]:
        """Rows of several videos, one behind the other, as (T, H, W, D) each."""
        shapes = [self._shape(grid) for grid in grids]
        joined = rows if isinstance(rows, torch.Tensor) else torch.cat(list(rows))
        parts = joined.split([t * h * w for t, h, w in shapes])
        return [part.view(*shape, -1) for part, shape in zip(parts, shapes, strict=True)]
