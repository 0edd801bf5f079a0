"""Tiny Qwen3-VL and Qwen3.5, dense and mixture of experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import qwen2, shared

if TYPE_CHECKING:
    from transformers import (
        PreTrainedTokenizerBase,
        Qwen3_5ForConditionalGeneration,
        Qwen3_5MoeForConditionalGeneration,
        Qwen3VLForConditionalGeneration,
        Qwen3VLMoeForConditionalGeneration,
    )

PIXELS = {"shortest_edge": 8 * 28 * 28, "longest_edge": 2**30}  # of a resized video
VIDEO = {**qwen2.VIDEO, "size": PIXELS, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
ROPE = {**qwen2.ROPE, "mrope_interleaved": True}
TOWER: dict[str, Any] = {**qwen2.TOWER, "hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 64}
TOWER |= {"num_position_embeddings": 64}
DEEPSTACK = {**TOWER, "deepstack_visual_indexes": [0, 1]}
EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
LINEAR: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention"], "linear_conv_kernel_dim": 4}
LINEAR |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16}
LINEAR |= {"linear_value_head_dim": 16, "rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}}
LINEAR["rope_parameters"] |= {"mrope_section": [2, 1, 1]}


def qwen3_vl(seed: int = 0) -> tuple[Qwen3VLForConditionalGeneration, Any]:
    """A Qwen3-VL of about 0.5 M weights and its processor: two layers, with DeepStack behind both."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    return _built(seed, Qwen3VLConfig, Qwen3VLForConditionalGeneration, DEEPSTACK)


def qwen3_vl_moe(seed: int = 0) -> tuple[Qwen3VLMoeForConditionalGeneration, Any]:
    """As `qwen3_vl`, each layer with four experts, of which a token takes two."""
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    return _built(seed, Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration, DEEPSTACK, **EXPERTS)


def qwen3_5(seed: int = 0) -> tuple[Qwen3_5ForConditionalGeneration, Any]:
    """A Qwen3.5 of about 0.3 M weights and its processor: a layer of linear attention, then one of full attention.

    Raises ImportError where transformers has no Qwen3.5.
    """
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    return _built(seed, Qwen3_5Config, Qwen3_5ForConditionalGeneration, TOWER, **LINEAR)


def qwen3_5_moe(seed: int = 0) -> tuple[Qwen3_5MoeForConditionalGeneration, Any]:
    """As `qwen3_5`, each layer with four experts, of which a token takes two, and one that all take."""
    from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

    more = {**LINEAR, **EXPERTS, "shared_expert_intermediate_size": 32}
    return _built(seed, Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration, TOWER, **more)


def _built(seed: int, config: Any, kind: Any, tower: dict[str, Any], **more: Any) -> tuple[Any, Any]:
    words = qwen2.tokenizer()
    text = shared.decoder(words, **{"rope_parameters": ROPE, "head_dim": 16, **more})
    settings = config(text_config=text, vision_config=tower, **qwen2.token_ids(words))
    with shared.seeded(seed):
        model = shared.built(kind, settings, words, _tell_apart)
    return model, _processor(model, words)


def _processor(model: Any, words: PreTrainedTokenizerBase) -> Any:
    stand_in = shared.frame_processor(model, words, VIDEO)
    if stand_in is not None:
        return stand_in
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    images = Qwen2VLImageProcessor(**{**VIDEO, "size": qwen2.PIXELS})
    return Qwen3VLProcessor(images, words, Qwen3VLVideoProcessor(**VIDEO), chat_template=words.chat_template)


def _tell_apart(model: Any) -> None:
    for layer in model.language_model.layers:
        if hasattr(layer, "linear_attn"):  # long memory; fast decays cost the float32 sums of a chunk four digits
            layer.linear_attn.A_log.uniform_(-5, -2)
    tower = model.visual
    shared.random(tower.patch_embed.proj.weight, 1)
    for block in tower.blocks:
        shared.random(block.attn.qkv.weight, 1)
        shared.random(block.attn.proj.weight, 0.1)
        shared.strengthen(block.mlp.linear_fc1, block.mlp.linear_fc2)
    pixels, grid = qwen2.patches(shared.noise(224), 14)
    mergers = (tower.merger, *getattr(tower, "deepstack_merger_list", ()))
    for merger in mergers:
        shared.random(merger.linear_fc1.weight, 3)
        shared.random(merger.linear_fc2.weight, 0.5)
        merger.linear_fc2.bias.zero_()
    output = tower(pixels, grid_thw=grid)
    levels = getattr(output, "deepstack_features", None) or ()
    for merger, rows in zip(mergers, (output.pooler_output, *levels), strict=True):
        merger.linear_fc2.bias.copy_(-rows.mean(0))
