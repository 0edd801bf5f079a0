"""InternVL: a video is numbered pictures in the text, of the same tokens as images."""

from __future__ import annotations

from math import isqrt
from types import SimpleNamespace
from typing import Any

import torch

from .frames import Frames


class InternVL(Frames):
    """The adapter of InternVL, see `base.Adapter`. Only the text tells a video's frames from images."""

    reach = 16  # tokens in front of a video's first picture that tell it

    @classmethod
    def without_processor(cls, model: Any) -> InternVL:
        """With the tokenizer of the checkpoint that the model came from. Raises ValueError where there is none."""
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"model must come from a checkpoint with a tokenizer, got {model.name_or_path!r}: give its processor"
            ) from error
        return cls(model, SimpleNamespace(tokenizer=tokenizer, apply_chat_template=None))

    @property
    def video_token_id(self) -> int:
        return int(self.processor.tokenizer.video_token_id)

    @property
    def visual_token_id(self) -> int:
        return int(self.model.config.image_token_id)

    @property
    def side(self) -> int:
        return isqrt(self.model.config.image_seq_length)

    def rows(self, pixels: torch.Tensor) -> Any:
        output = self.model.model.get_image_features(pixels)
        return getattr(output, "pooler_output", output)

    def around(self, step: int, fps: float, missing: int = 0, first: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        return self._ids(self._before(step, first)), self._ids(self.processor.tokenizer.end_image_token)

    def grids(self, input_ids: torch.Tensor, inputs: dict[str, Any]) -> list[list[torch.Tensor]]:
        return [self._videos(row) for row in input_ids]

    def _videos(self, row: torch.Tensor) -> list[torch.Tensor]:
        """A video goes on where nothing but the next frame's number stands between two pictures."""
        at = (row == self.visual_token_id).nonzero().flatten()
        cuts = (at.diff() != 1).nonzero().flatten() + 1
        videos: list[list[torch.Tensor]] = []
        steps = end = 0  # steps of the video that may go on, and where it ends so far
        for run in at.tensor_split(cuts.cpu()) if len(at) else ():
            begin, one = int(run[0]), len(run) == self.side**2  # an image may be several pictures in a row
            if one and steps and self._goes_on(self._read(row[end:begin]), steps):
                steps += 1
            else:
                steps = int(one and self._begins(self._read(row[max(end, begin - self.reach) : begin])))
                videos.extend([[]] if steps else [])
            if steps:
                videos[-1].append(run.view(self.side, self.side))
            end = int(run[-1]) + 1
        return [torch.stack(video) for video in videos]

    def _before(self, step: int, first: bool = False) -> str:
        newline = "" if first or not step else "\n"
        return f"{newline}Frame{step + 1}: {self.processor.tokenizer.start_image_token}"

    def _begins(self, text: str) -> bool:
        """Whether a video begins behind the text."""
        return text.endswith(self._before(0))

    def _goes_on(self, text: str, steps: int) -> bool:
        """Whether the text stands between so many steps of a video and the next one."""
        return text == self.processor.tokenizer.end_image_token + self._before(steps)

    def _read(self, ids: torch.Tensor) -> str:
        return self.processor.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
