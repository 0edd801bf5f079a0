"""LLaVA-NeXT-Video: a video is its frames' tokens, one behind the other."""

from __future__ import annotations

from typing import Any

import torch

from .frames import Frames
from .processor import picture_images


class LlavaNextVideo(Frames):
    """The adapter of LLaVA-NeXT-Video, see `base.Adapter`."""

    frame_images = staticmethod(picture_images)
    behind = 0  # of the placeholders of a video, those that are no place of a grid

    @property
    def side(self) -> int:
        config = self.model.config
        return config.vision_config.image_size // config.vision_config.patch_size // config.spatial_pool_stride

    def rows(self, pixels: torch.Tensor) -> Any:
        output = self.model.model.get_video_features(pixels[None])
        return getattr(output, "pooler_output", output)

    def grids(self, input_ids: torch.Tensor, inputs: dict[str, Any]) -> list[list[torch.Tensor]]:
        shape = (self._frames(inputs), self.side, self.side)
        count = shape[0] * shape[1] * shape[2]
        found = []
        for row in input_ids:
            at = (row == self.video_token_id).nonzero().flatten()
            found.append([video[:count].view(shape) for video in at.split(count + self.behind) if len(video)])
        return found

    def _frames(self, inputs: dict[str, Any]) -> int:
        """Of each video: they all have as many, also where generate() has encoded them before."""
        pixels = inputs.get("pixel_values_videos")
        if pixels is not None:
            return pixels.shape[1]
        rows = inputs["mm_encoder_outputs"]["video"].pooler_output
        return rows.shape[1] // self.side**2
