"""A video language model used as its own documentation says: what a session must agree with."""

from __future__ import annotations

import inspect
import warnings
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers
from torchvision_shim import installed

from streamprune_triton.models import tiny
from streamprune_triton.models.processor import FrameProcessor

HAVE_TORCHVISION = installed()
GLM = ("glm4v", "glm4v_moe", "glm46v")  # the same token for images and videos
LINEAR = ("qwen3_5", "qwen3_5_moe")  # attention is linear in some layers
UNSTREAMED = (*LINEAR, "smolvlm")  # no session runs on them
PAIRED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", *LINEAR, *GLM)  # two frames a step, M-RoPE
PATCHED = (*PAIRED, "video_llama_3")  # frames cut into patches, as many as they need


def build(seed: int = 0, family: str = "qwen2_5_vl") -> tuple[Any, Any]:
    """The tiny model and its processor. Skips where this transformers has no such family."""
    if family in LINEAR and not hasattr(transformers, "Qwen3_5Config"):
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    return getattr(tiny, family)(seed)


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


def inputs(model: Any, processor: Any, frames: np.ndarray, question: str, fps: float) -> dict[str, Any]:
    """What `generate` takes for a question about a clip."""
    text, family, numbers = chat(processor, question), model.config.model_type, list(range(len(frames)))
    if not isinstance(processor, FrameProcessor):
        if numbers == [0] and family in PAIRED:  # half a step, which some of them refuse
            frames, numbers = np.concatenate([frames, frames]), [0, 0]
        clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
        more = {"use_token_compression": False} if family == "video_llama_3" else {}
        metadata = [{"fps": fps, "total_num_frames": len(set(numbers)), "frames_indices": numbers}]
        more |= {"video_metadata": metadata, "do_sample_frames": False, "return_tensors": "pt"}
        with warnings.catch_warnings():  # GLM's makes arrays of tensors, which NumPy 2 deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            return dict(processor(text=[text], videos=[clip], **more))
    count = len(frames)
    if family in PATCHED:
        if count % 2 and family in PAIRED:
            frames = np.concatenate([frames, frames[-1:]])
        pixels, grid = processor.patches(frames)
        text = spelled(family, text, count, int(grid[0, 1:].prod()) // 4, fps)
        given = {"pixel_values_videos": pixels, "video_grid_thw": grid}
        if family == "qwen2_5_vl":
            given["second_per_grid_ts"] = torch.tensor([2 / fps])
        if family == "video_llama_3":
            given["video_merge_sizes"] = torch.tensor([2])
            given["video_compression_mask"] = torch.ones(int(grid.prod()) // 4, dtype=torch.bool)
    else:
        pixels = processor.pictures(frames)
        text = spelled(family, text, count, 16, fps)
        given = {"pixel_values_videos": pixels[None]} if family.startswith("llava") else {"pixel_values": pixels}
        if family == "smolvlm":
            given = {"pixel_values": pixels[None]}
    return {**read(model, processor, [text]), **given}


def chat(processor: Any, question: str) -> str:
    """A prompt as the template has it, with one token for the video."""
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}]
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def spelled(family: str, text: str, frames: int, area: int, fps: float) -> str:
    """The text with what the family's processor puts in the place of its last video, of `area` tokens a step."""
    if family == "internvl":
        each = (f"Frame{n}: <img>{'<IMG_CONTEXT>' * area}</img>" for n in range(1, frames + 1))
        return _once(text, "<video>", "\n".join(each))
    if family == "smolvlm":
        return _once(text, "<video>", _timed_pictures(frames, area, fps))
    if family.startswith("llava"):
        newline = int(family == "llava_onevision")
        return _once(text, "<video>", "<video>" * (frames * area + newline))
    if family == "video_llama_3":
        each = (f"Time {n / fps:.1f}s:{'<|video_pad|>' * area}" for n in range(frames))
        return _once(text, "<|video_pad|>", ",".join(each))
    if family in GLM:
        pads = f"<|begin_of_image|>{'<|image|>' * area}<|end_of_image|>"
        return _once(text, "<|video|>", "".join(f"{pads}{_seconds(family, n / fps)}" for n in range(0, frames, 2)))
    if not family.startswith("qwen3"):
        return _once(text, "<|video_pad|>", "<|video_pad|>" * (-(-frames // 2) * area))
    times = [(n + min(n + 1, frames - 1)) / 2 / fps for n in range(0, frames, 2)]
    pads = f"<|vision_start|>{'<|video_pad|>' * area}<|vision_end|>"
    from transformers import Qwen3VLProcessor

    wrapped = hasattr(Qwen3VLProcessor, "replace_video_token")  # newer ones leave the template's own tokens around it
    place = "<|video_pad|>" if wrapped else "<|vision_start|><|video_pad|><|vision_end|>"
    return _once(text, place, "".join(f"<{time:.1f} seconds>{pads}" for time in times))


def _timed_pictures(frames: int, area: int, fps: float) -> str:
    fake, words = "<fake_token_around_image>", ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
    count, length = words[frames] if frames < len(words) else frames, timedelta(seconds=int((frames - 1) / fps))
    intro = f"You are provided the following series of {count} frames from a {length} [H:MM:SS] video.\n"
    times = (divmod(int(n / fps), 60) for n in range(frames))
    pictures = (f"\nFrame from {m:02d}:{s:02d}:{fake}<global-img>{'<image>' * area}{fake}" for m, s in times)
    return intro + "".join(pictures) + "\n\n"


def _seconds(family: str, seconds: float) -> str:
    return f"{seconds:.1f} seconds" if family == "glm46v" else str(int(seconds))


def _once(text: str, token: str, others: str) -> str:
    """With the last occurrence replaced, so that videos spelled from the last to the first do not meet."""
    head, found, tail = text.rpartition(token)
    assert found
    return head + others + tail


def read(model: Any, processor: Any, texts: list[str], side: str = "left") -> dict[str, torch.Tensor]:
    """A batch of texts as ids."""
    rows = [processor.tokenizer(text)["input_ids"] for text in texts]
    most, pad = max(map(len, rows)), processor.tokenizer.pad_token_id
    fill = [[pad] * (most - len(row)) for row in rows]
    ids = torch.tensor([f + row if side == "left" else row + f for f, row in zip(fill, rows, strict=True)])
    ones = [[0] * len(f) + [1] * len(row) for f, row in zip(fill, rows, strict=True)]
    mask = torch.tensor(ones if side == "left" else [row[::-1] for row in ones])
    given = {"input_ids": ids, "attention_mask": mask}
    rule = getattr(model.model, "get_rope_index", None)
    if rule is not None and "mm_token_type_ids" in inspect.signature(rule).parameters:
        given["mm_token_type_ids"] = _types(ids, model.config)
    return given


def _types(ids: torch.Tensor, config: Any) -> torch.Tensor:
    """1 for an image's tokens, 2 for a video's."""
    image = (ids == config.image_token_id).int()
    if config.model_type not in GLM:
        return 2 * (ids == config.video_token_id).int() + image
    begun, ended = ((ids == token).cumsum(1) for token in (config.video_start_token_id, config.video_end_token_id))
    return image * (1 + (begun > ended).int())


def generate(model: Any, given: dict[str, Any], count: int) -> tuple[list[int], torch.Tensor]:
    """(greedy token ids, their logits (n, V)) of an unmodified model, one that ends the answer left out."""
    was = {name: value for name, value in vars(model.model).items() if name == "rope_deltas"}
    try:
        out = model.generate(
            **given, max_new_tokens=count, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    finally:
        vars(model.model).update(was)
    ids = out.sequences[0, given["input_ids"].shape[1] :].tolist()
    return ids, torch.cat(out.logits)


def rope_index(model: Any, given: dict[str, Any]) -> torch.Tensor:
    """(A, L) positions of the whole prompt, by the model's own rule."""
    if not hasattr(model.model, "get_rope_index"):
        return torch.arange(given["input_ids"].shape[1])[None]
    takes = inspect.signature(model.model.get_rope_index).parameters
    names = ("mm_token_type_ids", "video_grid_thw", "second_per_grid_ts")
    positions, _ = model.model.get_rope_index(
        given["input_ids"], **{n: given[n] for n in names if n in given and n in takes}
    )
    return positions[:, 0]


class Seen(NamedTuple):
    """What an unmodified model's multimodal forward hands to its decoder, and what comes out."""

    embeds: torch.Tensor  # (B, L, D)
    positions: torch.Tensor | None  # (A, B, L), None where the decoder counts itself
    visual: torch.Tensor | None  # (B, L) bool, with DeepStack
    levels: tuple[torch.Tensor, ...]
    hidden: torch.Tensor  # (B, L, D)


def seen(model: Any, given: dict[str, Any]) -> Seen:
    """Of one forward."""
    calls: list[dict[str, Any]] = []
    decoder = model.model.language_model
    handle = decoder.register_forward_pre_hook(lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True)
    was = {name: value for name, value in vars(model.model).items() if name == "rope_deltas"}
    try:
        with torch.no_grad():
            hidden = model.model(**given).last_hidden_state
    finally:
        handle.remove()
        vars(model.model).update(was)
    (call,) = calls
    positions = call.get("position_ids")
    if positions is not None:
        positions = positions[-3:] if positions.ndim == 3 else positions[None]
    levels = tuple(call.get("deepstack_visual_embeds") or ())
    return Seen(call["inputs_embeds"], positions, call.get("visual_pos_masks"), levels, hidden)
