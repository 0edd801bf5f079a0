"""Qwen2.5-VL. Every number comes from the model, its config or its processor; transformers 5.0-5.2, 5.6-5.23."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .base import Prompt
from .positions import VideoPositions
from .processor import FrameProcessor

if TYPE_CHECKING:
    from transformers import Cache

VIDEO = 2  # of mm_token_type_ids


class Qwen25VL:
    """The adapter of Qwen2.5-VL, see `base.Adapter`."""

    def __init__(self, model: Any, processor: Any) -> None:
        for name in ("tokenizer", "image_processor", "apply_chat_template"):
            if not hasattr(processor, name):
                raise TypeError(f"processor must be the model's, with a {name}, got {type(processor).__name__}")
        self._model = model
        self._processor = processor
        self._vision = model.config.vision_config
        self.frames_per_step = int(self._vision.temporal_patch_size)

    def prompt(self, system: str | None, question: str) -> Prompt:
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system is not None else []
        messages.append({"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]})
        text = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = torch.tensor(self._processor.tokenizer(text)["input_ids"])
        at = (ids == self._model.config.video_token_id).nonzero().flatten().tolist()
        if len(at) != 1:
            raise ValueError(f"question and system must not name a video themselves, got {len(at) - 1} in {question!r}")
        return Prompt(ids[: at[0]], ids[at[0] + 1 :])

    def patches(self, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        if isinstance(self._processor, FrameProcessor):
            return self._processor.patches(frames)
        options: dict[str, Any] = {"do_sample_frames": False, "input_data_format": "channels_first"}
        videos = self._processor.video_processor
        if hasattr(videos, "cap_pixels_per_frame"):
            options["cap_pixels_per_frame"] = False  # it shares out a budget over a clip, and a stream has no length
        clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
        processed = videos(videos=[clip], return_tensors="pt", **options)
        return processed["pixel_values_videos"], processed["video_grid_thw"]

    @torch.no_grad()
    def features(self, patches: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        device, merge = self._model.device, self._vision.spatial_merge_size
        output = self._model.model.get_video_features(patches.to(device), grid.to(device))
        pooled = getattr(output, "pooler_output", output)  # an output object, or the features themselves
        t, h, w = grid[0].tolist()
        return torch.cat(list(pooled)).view(t, h // merge, w // merge, -1)

    def positions(self, before: torch.Tensor, grid: tuple[int, int], fps: float) -> VideoPositions:
        rule, config = self._model.model.get_rope_index, self._model.config
        takes_types = "mm_token_type_ids" in inspect.signature(rule).parameters
        merge = self._vision.spatial_merge_size

        def ask(t: int, h: int, w: int, seconds: float | None) -> torch.Tensor:
            video = torch.full((t * h * w,), config.video_token_id)
            ids = torch.cat([before, video, torch.tensor([config.vision_end_token_id])])[None]
            types = {"mm_token_type_ids": (ids == config.video_token_id).int() * VIDEO} if takes_types else {}
            seconds = self.frames_per_step / fps if seconds is None else seconds
            positions, _ = rule(
                ids,
                video_grid_thw=torch.tensor([[t, h * merge, w * merge]]),
                second_per_grid_ts=torch.tensor([seconds]),  # float32, as a processor hands it over
                **types,
            )
            return positions[:, 0, len(before) :]

        return VideoPositions(ask, grid)

    @torch.no_grad()
    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self._model.get_input_embeddings()(ids.to(self._model.device))

    @torch.no_grad()
    def forward(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Cache) -> torch.Tensor:
        output = self._model.model.language_model(
            inputs_embeds=embeds[None].to(self._model.dtype),
            position_ids=positions[:, None].to(embeds.device),
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state[0]

    @torch.no_grad()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._model.get_output_embeddings()(hidden)
