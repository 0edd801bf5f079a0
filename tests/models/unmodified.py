"""A video language model used as its own documentation says: what a session must agree with."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torchvision_shim import installed

from streamprune_triton.models import tiny
from streamprune_triton.models.processor import FrameProcessor

HAVE_TORCHVISION = installed()


def build(seed: int = 0) -> tuple[Any, Any]:
    """The tiny model and its processor."""
    return tiny.qwen2_5_vl(seed)


def film(count: int, size: tuple[int, int] = (84, 112), seed: int = 0) -> np.ndarray:
    """(count, height, width, 3) uint8: a still, coarse room with one block of noise that wanders."""
    rng = np.random.default_rng(seed)
    h, w = size
    room = np.kron(rng.integers(0, 256, (h // 7, w // 7, 3), dtype=np.uint8), np.ones((7, 7, 1), np.uint8))
    frames = np.repeat(room[None], count, axis=0)
    for n in range(count):
        x = 14 * n % (w - 28)
        frames[n, 28:56, x : x + 28] = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
    return frames


def inputs(model: Any, processor: Any, frames: np.ndarray, question: str, fps: float) -> dict[str, torch.Tensor]:
    """What `generate` takes for a question about a clip."""
    content = [{"type": "video"}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if not isinstance(processor, FrameProcessor):
        clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
        metadata = [{"fps": fps, "total_num_frames": len(frames), "frames_indices": list(range(len(frames)))}]
        return dict(
            processor(text=[text], videos=[clip], video_metadata=metadata, do_sample_frames=False, return_tensors="pt")
        )
    if len(frames) % 2:
        frames = np.concatenate([frames, frames[-1:]])
    pixels, grid = processor.patches(frames)
    count = int(grid.prod()) // 4
    ids = torch.tensor([processor.tokenizer(text.replace("<|video_pad|>", "<|video_pad|>" * count))["input_ids"]])
    given = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": pixels,
        "video_grid_thw": grid,
        "second_per_grid_ts": torch.tensor([2 / fps]),
    }
    if "mm_token_type_ids" in inspect.signature(model.model.get_rope_index).parameters:
        given["mm_token_type_ids"] = 2 * (ids == model.config.video_token_id).int()
    return given


def generate(model: Any, given: dict[str, torch.Tensor], count: int) -> tuple[list[int], torch.Tensor]:
    """(greedy token ids, their logits (n, V)) of an unmodified model, one that ends the answer left out."""
    was = model.model.rope_deltas
    try:
        out = model.generate(
            **given, max_new_tokens=count, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    finally:
        model.model.rope_deltas = was
    ids = out.sequences[0, given["input_ids"].shape[1] :].tolist()
    return ids, torch.cat(out.logits)


def rope_index(model: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """(3, L) positions of the whole prompt, by the model's own rule."""
    names = ("mm_token_type_ids", "video_grid_thw", "second_per_grid_ts")
    positions, _ = model.model.get_rope_index(given["input_ids"], **{n: given[n] for n in names if n in given})
    return positions[:, 0]
