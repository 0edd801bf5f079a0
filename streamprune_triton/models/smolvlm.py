"""SmolVLM: a video is pictures in the text with a time before each, of the same tokens as images."""

from __future__ import annotations

import re
from typing import Any

import torch

from .internvl import InternVL


class SmolVLM(InternVL):
    """The adapter of SmolVLM2, for `pruned`; see `base.Adapter`. Only the text tells a video's frames from images.

    No session runs on it: in front of a video's frames its prompt says how many there are and how long they last,
    which a stream does not know.
    """

    reach = 64

    @property
    def side(self) -> int:
        vision = self.model.config.vision_config
        return vision.image_size // vision.patch_size // self.model.config.scale_factor

    @property
    def language_model(self) -> Any:
        return self.model.model.text_model

    def text(self, messages: list[dict[str, Any]], answer: bool = True) -> list[torch.Tensor]:
        """Raises ValueError."""
        raise ValueError("model must not tell a video's length before its frames, got smolvlm: use pruned")

    def _begins(self, text: str) -> bool:
        return re.search(rf"video\.\n{self._frame}$", text) is not None

    def _goes_on(self, text: str, steps: int) -> bool:
        return re.fullmatch(self._fake + self._frame, text) is not None

    @property
    def _frame(self) -> str:
        """A pattern of what stands in front of a frame's tokens."""
        return rf"\nFrame from \d\d+:\d\d:{self._fake}{self._mark('global_image_token', '<global-img>')}"

    @property
    def _fake(self) -> str:
        """A pattern of what stands around each picture."""
        return self._mark("fake_image_token", "<fake_token_around_image>")

    def _mark(self, name: str, usual: str) -> str:
        """A pattern of a special token, which the processor takes from the tokenizer where it has one by that name."""
        return re.escape(getattr(self.processor.tokenizer, name, usual))
