"""Tiny Qwen2-VL and Qwen2.5-VL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from . import shared

if TYPE_CHECKING:
    from transformers import (
        PreTrainedTokenizerBase,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLForConditionalGeneration,
    )

VISION = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
TEMPLATE = shared.chat_template(
    "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"
)
PIXELS = {"shortest_edge": 4 * 28 * 28, "longest_edge": 256 * 28 * 28}  # of a resized frame
VIDEO: dict[str, Any] = {"size": PIXELS, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
TOWER = {"depth": 2, "num_heads": 4, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}


def qwen2_vl(seed: int = 0) -> tuple[Qwen2VLForConditionalGeneration, Any]:
    """A Qwen2-VL of about 0.4 M weights and its processor: patches of 14 x 14, merged 2 x 2 to D = 64."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    words = tokenizer()
    tower: dict[str, Any] = {**TOWER, "embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2}
    text = shared.decoder(words, rope_parameters=ROPE)
    config = Qwen2VLConfig(text_config=text, vision_config=tower, **token_ids(words))
    with shared.seeded(seed):
        model = shared.built(Qwen2VLForConditionalGeneration, config, words, _tell_apart)
    return model, _processor(model, words, "Qwen2VLProcessor")


def qwen2_5_vl(seed: int = 0) -> tuple[Qwen2_5_VLForConditionalGeneration, Any]:
    """A Qwen2.5-VL of about 0.4 M weights and its processor.

    The vision tower has a windowed and a full-attention block over patches of 14 x 14, merged 2 x 2 to D = 64; the
    language model has two layers with M-RoPE.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    words = tokenizer()
    tower: dict[str, Any] = {
        **TOWER,
        "hidden_size": 64,
        "intermediate_size": 128,
        "out_hidden_size": 64,
        "tokens_per_second": 2,
    }
    tower |= {"window_size": 112, "fullatt_block_indexes": [1]}
    text = shared.decoder(words, rope_parameters=ROPE)
    config = Qwen2_5_VLConfig(text_config=text, vision_config=tower, **token_ids(words))
    with shared.seeded(seed):
        model = shared.built(Qwen2_5_VLForConditionalGeneration, config, words, _tell_apart_gated)
    return model, _processor(model, words, "Qwen2_5_VLProcessor")


def tokenizer() -> PreTrainedTokenizerBase:
    """With Qwen's special tokens and chat template."""
    return shared.tokenizer((*shared.CHATML, *VISION), TEMPLATE, "<|im_end|>", "<|endoftext|>")


def token_ids(words: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The special tokens that a model's config names."""
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return {name: words.convert_tokens_to_ids(token) for name, token in names.items()}


def patches(pictures: torch.Tensor, patch: int, slots: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """(patches, grid (N, 3)) of stills (N, 3, h, w), `slots` frames each, in the order of a processor."""
    n, _, h, w = pictures.shape
    cut = pictures.view(n, 3, h // patch // 2, 2, patch, w // patch // 2, 2, patch)
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)  # row, column, 2 x 2, C, slot, pixels
    flat = cut.expand(-1, -1, -1, -1, -1, -1, slots, -1, -1).reshape(n * (h // patch) * (w // patch), -1)
    return flat, torch.tensor([[1, h // patch, w // patch]] * n)


def _processor(model: Any, words: PreTrainedTokenizerBase, name: str) -> Any:
    stand_in = shared.frame_processor(model, words, VIDEO)
    if stand_in is not None:
        return stand_in
    import transformers

    images, videos = transformers.Qwen2VLImageProcessor(**VIDEO), transformers.Qwen2VLVideoProcessor(**VIDEO)
    return getattr(transformers, name)(images, words, videos, chat_template=TEMPLATE)


def _tell_apart_gated(model: Any) -> None:
    """Weights for a vision tower whose features of unlike patches are nearly orthogonal.

    A random transformer's features nearly all point the same way. Here the gated MLPs, which multiply two projections
    of a patch, outweigh the residual stream, so that similarity falls off like a high power of the patches' own;
    attention, which mixes patches, stays weak; the merger's last bias centres the features over coloured noise.
    """
    tower = model.visual
    shared.random(tower.patch_embed.proj.weight, 1)
    for block in tower.blocks:
        _weaken(block.attn)
        shared.random(block.mlp.gate_proj.weight, 4)
        shared.random(block.mlp.up_proj.weight, 1)
        shared.random(block.mlp.down_proj.weight, 4)
    tower.blocks[0].mlp.down_proj.bias.normal_(0, 0.5)  # a norm forgets brightness unless something adds to it
    tower.blocks[0].mlp.gate_proj.bias.normal_(0, 0.5)
    _centre(tower)


def _tell_apart(model: Any) -> None:
    """As for the gated tower, with stronger projections in the place of gates."""
    tower = model.visual
    shared.random(tower.patch_embed.proj.weight, 1)
    for block in tower.blocks:
        _weaken(block.attn)
        shared.strengthen(block.mlp.fc1, block.mlp.fc2)
    _centre(tower)


def _weaken(attention: Any) -> None:
    shared.random(attention.qkv.weight, 1)
    shared.random(attention.proj.weight, 0.1)


def _centre(tower: Any) -> None:
    shared.random(tower.merger.mlp[0].weight, 3)
    shared.random(tower.merger.mlp[2].weight, 0.5)
    tower.merger.mlp[2].bias.zero_()
    pixels, grid = patches(shared.noise(224), 14)
    tower.merger.mlp[2].bias.copy_(-tower(pixels, grid_thw=grid).pooler_output.mean(0))
