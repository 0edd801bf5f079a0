"""LLaVA-OneVision: as LLaVA-NeXT-Video, with one newline behind each video."""

from __future__ import annotations

from typing import Any

import torch

from ..transfer import upload
from .base import Adapter, inference
from .llava_next_video import LlavaNextVideo


class LlavaOnevision(LlavaNextVideo):
    """The adapter of LLaVA-OneVision, see `base.Adapter`.

    The newline is the first token of the text behind a video, under the id that stands for the video.
    """

    frame_images = staticmethod(Adapter.frame_images)
    behind = 1

    @property
    def side(self) -> int:
        vision = self.model.config.vision_config
        return -(-(vision.image_size // vision.patch_size) // 2)

    def text(self, messages: list[dict[str, Any]], answer: bool = True) -> list[torch.Tensor]:
        first, *others = super().text(messages, answer)
        newline = torch.tensor([self.video_token_id])
        return [first, *(torch.cat([newline, piece]) for piece in others)]

    @inference
    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        newline = upload(ids == self.video_token_id, self.model.device)
        return torch.where(newline[:, None], self.model.model.image_newline, super().embed(ids))
