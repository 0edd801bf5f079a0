"""A small Qwen2.5-VL for streaming shapes: configuration, processor, tokenizer; weights from a file, or random.

What differs from the large one, in the configuration alone: patches of 4 x 4 pixels, so that 48 x 48 frames have
6 x 6 tokens; full attention in all of the tower; words as tokens; rotary sections for time, row and column that
alternate (t, h, w, t, h, w, ...) over a base of 100, so that all three axes have frequencies that tell neighbours
apart. With the usual three blocks and a base of 1e6 a frame of six tokens would have next to no columns.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..models.processor import FrameProcessor
from .words import CHAT_TEMPLATE, SPECIAL_TOKENS, tokenizer
from .world import SIDE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

PATCH = 4
HEAD = 32  # channels of a head of the language model
WEIGHTS = Path(__file__).resolve().parent / "weights" / "model.safetensors"
PLAIN = WEIGHTS.with_name("plain.safetensors")  # of the same model before it was trained for carriers


def build(
    width: int = 128, layers: int = 4, tower_width: int = 64, tower_layers: int = 3, seed: int = 0
) -> tuple[Qwen2_5_VLForConditionalGeneration, Any]:
    """The model with random weights in float32, in evaluation mode, and its processor.

    Args:
        width: of the language model, a multiple of HEAD.
        layers: of the language model.
        tower_width: of the vision tower, a multiple of 16.
        tower_layers: of the vision tower.
        seed: of the weights.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    words = tokenizer()
    ids: dict[str, Any] = {token: words.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    config = Qwen2_5_VLConfig(
        text_config=_text(len(words), width, layers, ids),
        vision_config=_vision(tower_width, tower_layers, width),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config).float().eval()
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model, processor(words)


def load(path: str | os.PathLike[str] = WEIGHTS) -> tuple[Qwen2_5_VLForConditionalGeneration, Any]:
    """The model with the weights of a safetensors file, whose metadata names its sizes, and its processor.

    Args:
        path: a file of `save`; by default the trained weights of the package, see weights/README.md.

    Raises:
        OSError: where the file is not there.
        ValueError: where it holds no such model.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        sizes = file.metadata() or {}
        names = ("width", "layers", "tower_width", "tower_layers")
        if not set(names) <= set(sizes):
            raise ValueError(f"path must be a file that save() wrote, got {os.fspath(path)!r} without {names[0]}")
        weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    model, its_processor = build(**{name: int(sizes[name]) for name in names})
    model.load_state_dict(weights)
    return model, its_processor


def save(model: Any, path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> None:
    """Writes what `load` reads."""
    from safetensors.torch import save_file

    text, vision = model.config.text_config, model.config.vision_config
    sizes = {
        "width": text.hidden_size,
        "layers": text.num_hidden_layers,
        "tower_width": vision.hidden_size,
        "tower_layers": vision.depth,
    }
    weights = {name: value.detach().to(dtype).contiguous() for name, value in model.state_dict().items()}
    save_file(weights, path, {"format": "pt", **{name: str(size) for name, size in sizes.items()}})


def processor(words: PreTrainedTokenizerBase) -> Any:
    """Qwen2_5_VLProcessor where torchvision is installed, else a FrameProcessor; frames come out as SIDE x SIDE."""
    from transformers.utils import is_torchvision_available

    cut: dict[str, Any] = {
        "size": {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE},
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }
    import transformers

    name = "Qwen2VLImageProcessor"
    if not is_torchvision_available():
        on_pil = getattr(transformers, f"{name}Pil" if hasattr(transformers, f"{name}Pil") else name)
        return FrameProcessor(words, on_pil(**cut), CHAT_TEMPLATE)
    images, videos = getattr(transformers, name)(**cut), transformers.Qwen2VLVideoProcessor(**cut)
    return transformers.Qwen2_5_VLProcessor(images, words, videos, chat_template=CHAT_TEMPLATE)


def _text(vocabulary: int, width: int, layers: int, ids: dict[str, int]) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // HEAD,
        "num_key_value_heads": width // HEAD,
        "max_position_embeddings": 32768,
        # 15 sections, not 16: their number must be a multiple of 3 for all releases of transformers to agree
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1] * 14 + [2]},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": False,
    }


def _vision(width: int, layers: int, out: int) -> dict[str, Any]:
    return {
        "depth": layers,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_heads": width // 16,
        "out_hidden_size": out,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "tokens_per_second": 1,
        "window_size": SIDE,
        "fullatt_block_indexes": list(range(layers)),
    }
