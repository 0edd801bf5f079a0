"""What runs: the architecture of Qwen2.5-VL-7B with random weights on a GPU, a tiny model elsewhere; and the frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from streamprune_triton.models import tiny
from streamprune_triton.synthetic import SyntheticClip

# Of Qwen/Qwen2.5-VL-7B-Instruct's config.json.
TEXT = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "out_hidden_size": 3584,
    "tokens_per_second": 2,
}
TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
SIZES = {"7b": "Qwen2.5-VL-7B", "tiny": "tiny Qwen2.5-VL"}


def build(size: str, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """A model with random weights, made on the device, and its processor: the tiny model's, with its token ids."""
    small: Any
    small, processor = tiny.qwen2_5_vl()
    if size == "tiny":
        return small.to(device, dtype), processor
    from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

    ids = {name: getattr(small.config, name) for name in TOKENS}
    config = Qwen2_5_VLConfig(text_config=TEXT, vision_config=VISION, tie_word_embeddings=False, **ids)
    with torch.device(device), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval(), processor


def film(count: int, side: int) -> np.ndarray:
    """(2 count, side, side, 3) uint8: a still room with a ball and the camera's noise, forwards and then backwards."""
    clip = SyntheticClip(seconds=count, fps=1.0, size=(side, side))
    frames = np.stack([frame for _, frame in clip])
    return np.concatenate([frames, frames[::-1]])
