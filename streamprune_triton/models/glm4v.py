"""GLM-4.1V to GLM-4.6V, dense and mixture of experts: a video is pictures between its marks, a time behind each."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..transfer import upload
from .positions import Blocks
from .processor import patch_images
from .qwen2_5_vl import GRIDS, Qwen25VL

# Glm4vVideoProcessor's own, for a checkpoint that does not say: pixels of a resized video.
SIZE = {"shortest_edge": 112 * 112, "longest_edge": 2 * 30000 * 28 * 28}


class Glm4V(Qwen25VL):
    """The adapter of GLM-4.1V, GLM-4.5V and GLM-4.6V, see `base.Adapter`.

    Images have the same tokens as videos: only the marks around a video tell them apart.

    Its video processor keeps the pixels of a whole clip between two bounds. A stream has no length, so each step is
    sized as a clip of its own: where a bound is met, its frames come out larger here than in a longer clip.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        self._sizes: dict[tuple[int, ...], torch.Tensor] = {}  # those of `_derived`, on the device

    @staticmethod
    def frame_images(settings: dict[str, Any]) -> Any:
        frames = settings.get("temporal_patch_size") or 2
        size = {name: pixels // frames for name, pixels in (settings.get("size") or SIZE).items() if pixels}
        images = patch_images({**settings, "size": size})
        images.processor_class = settings.get("processor_class") or settings.get("video_processor_type")
        return images

    @property
    def visual_token_id(self) -> int:
        return int(self.model.config.image_token_id)

    def around(self, step: int, fps: float, missing: int = 0, first: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        before, behind = self._picture(step * self.frames_per_step / fps)
        return self._ids(before), self._ids(behind)

    def _picture(self, seconds: float) -> list[str]:
        """The texts around a step's tokens, from the processor: models of one type come with either of two."""
        if hasattr(self.processor, "replace_frame_token_id"):
            return self.processor.replace_frame_token_id(seconds).split(self.processor.image_token)
        kind = getattr(self.processor.image_processor, "processor_class", None) or self.model.config.model_type
        time = f"{seconds:.1f} seconds" if kind.lower().startswith("glm46v") else int(seconds)
        return ["<|begin_of_image|>", f"<|end_of_image|>{time}"]

    def layout(self, before: torch.Tensor, grid: tuple[int, int], fps: float, carrier: bool) -> Blocks:
        return Blocks(grid)

    def grids(self, input_ids: torch.Tensor, inputs: dict[str, Any]) -> list[list[torch.Tensor]]:
        """As `Adapter.grids`; video_grid_thw may also have a row (1, h, w) for each step."""
        sizes = inputs.get("video_grid_thw")
        steps = iter([] if sizes is None else sizes[:, 1:].repeat_interleave(sizes[:, 0].long(), 0).tolist())
        return [[self._grid(at, steps) for at in self._videos(row)] for row in input_ids]

    def _videos(self, row: torch.Tensor) -> list[torch.Tensor]:
        """Places of each video's tokens in a row; an image's tokens are the same, but not between a video's marks."""
        config = self.model.config
        begins = (row == config.video_start_token_id).cumsum(0)
        at = ((row == config.image_token_id) & (begins > (row == config.video_end_token_id).cumsum(0))).nonzero()[:, 0]
        return [at[begins[at] == number] for number in begins[at].unique()]

    def _grid(self, at: torch.Tensor, steps: Any) -> torch.Tensor:
        """(T, H, W) of one video's places, whose steps are the next ones."""
        size = next(steps, None)
        if size is None:
            raise ValueError("video_grid_thw must have a row for each video of the prompt")
        _, h, w = self._shape([1, *size])
        for _ in range(len(at) // (h * w) - 1):
            next(steps)
        return at.view(-1, h, w)

    def _tower(self, patches: torch.Tensor, grid: torch.Tensor) -> Any:
        """As Qwen's. The grid stays on the host for the attention; the embeddings want sizes where the patches are."""
        with self.model.model.visual.embeddings.register_forward_pre_hook(self._sized):
            return super()._tower(patches, grid)

    def _sized(self, _: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self._there(each, given[0].device) for each in given)

    def _there(self, sizes: Any, device: torch.device) -> Any:
        if isinstance(sizes, list) or sizes.device == device:  # a list in older releases
            return sizes
        key = tuple(sizes.shape) + tuple(sizes.flatten().tolist())
        found = self._sizes.get(key)
        if found is None:
            found = upload(sizes, device)
            if len(self._sizes) < 2 * GRIDS:
                self._sizes[key] = found
        return found

    def _clips(self, frames: np.ndarray) -> list[np.ndarray]:
        return list(frames.reshape(-1, self.frames_per_step, *frames.shape[1:]))
