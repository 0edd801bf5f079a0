"""Tiny VideoLLaMA 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from . import qwen2, shared

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, VideoLlama3ForConditionalGeneration

VIDEO = {**qwen2.VIDEO, "size": {**qwen2.PIXELS, "longest_edge": 2**30}, "temporal_patch_size": 1}
VIDEO |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TOWER |= {"patch_size": 14}


def video_llama_3(seed: int = 0) -> tuple[VideoLlama3ForConditionalGeneration, Any]:
    """A VideoLLaMA 3 of about 0.3 M weights and its processor: patches of 14 x 14, merged 2 x 2 to D = 64."""
    from transformers import VideoLlama3Config, VideoLlama3ForConditionalGeneration

    words = shared.tokenizer(
        (*shared.CHATML, "<|image_pad|>", "<|video_pad|>"),
        shared.chat_template("<|image_pad|>\n", "<|video_pad|>\n"),
        "<|im_end|>",
        "<|endoftext|>",
    )
    text = {"model_type": "qwen2", **shared.decoder(words)}
    ids = {"image_token_id": words.vocab["<|image_pad|>"], "video_token_id": words.vocab["<|video_pad|>"]}
    config = VideoLlama3Config(text_config=text, vision_config=dict(TOWER), **ids)
    with shared.seeded(seed):
        model = shared.built(VideoLlama3ForConditionalGeneration, config, words, _tell_apart)
    return model, _processor(model, words)


def _processor(model: Any, words: PreTrainedTokenizerBase) -> Any:
    stand_in = shared.frame_processor(model, words, VIDEO)
    if stand_in is not None:
        return stand_in
    from transformers import VideoLlama3ImageProcessor, VideoLlama3Processor, VideoLlama3VideoProcessor

    videos = VideoLlama3VideoProcessor(**VIDEO)
    return VideoLlama3Processor(VideoLlama3ImageProcessor(), words, videos, chat_template=words.chat_template)


def _tell_apart(model: Any) -> None:
    shared.picture_tower(model.vision_model)
    pixels, grid = qwen2.patches(shared.noise(224), 14, 1)
    merge = torch.full_like(grid[:, 0], VIDEO["merge_size"])
    first, _, second = model.projector.readout
    shared.centre(first, second, lambda: torch.cat(model.get_video_features(pixels, grid, merge).pooler_output))
