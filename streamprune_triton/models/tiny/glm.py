"""Tiny GLM-4.1V, GLM-4.5V and GLM-4.6V."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import qwen2, shared

if TYPE_CHECKING:
    from transformers import (
        Glm4vForConditionalGeneration,
        Glm4vMoeForConditionalGeneration,
        Glm46VForConditionalGeneration,
        PreTrainedTokenizerBase,
    )

IMAGE = ("<|begin_of_image|>", "<|image|>", "<|end_of_image|>")
VIDEO = ("<|begin_of_video|>", "<|video|>", "<|end_of_video|>")
PIXELS = {"shortest_edge": 8 * 28 * 28, "longest_edge": 2**30}  # of a resized video
ROPE = {**qwen2.ROPE, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}
TOWER: dict[str, Any] = {**qwen2.TOWER, "hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 64}
TOWER |= {"image_size": 112}
EXPERTS = {"moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2}


def glm4v(seed: int = 0) -> tuple[Glm4vForConditionalGeneration, Any]:
    """A GLM-4.1V of about 0.4 M weights and its processor: patches of 14 x 14, merged 2 x 2 to D = 64."""
    from transformers import Glm4vConfig, Glm4vForConditionalGeneration

    return _built(seed, Glm4vConfig, Glm4vForConditionalGeneration, "Glm4v")


def glm4v_moe(seed: int = 0) -> tuple[Glm4vMoeForConditionalGeneration, Any]:
    """As `glm4v`, the second layer with four experts, of which a token takes two, and one that all take."""
    from transformers import Glm4vMoeConfig, Glm4vMoeForConditionalGeneration

    return _built(seed, Glm4vMoeConfig, Glm4vMoeForConditionalGeneration, "Glm4v", **EXPERTS)


def glm46v(seed: int = 0) -> tuple[Glm46VForConditionalGeneration, Any]:
    """As `glm4v_moe`, under the name and with the processor of GLM-4.6V."""
    from transformers import Glm46VConfig, Glm46VForConditionalGeneration

    more = {**EXPERTS, "model_type": "glm4v_moe_text"}
    return _built(seed, Glm46VConfig, Glm46VForConditionalGeneration, "Glm46V", **more)


def _built(seed: int, config: Any, kind: Any, names: str, **more: Any) -> tuple[Any, Any]:
    template = shared.chat_template("".join(IMAGE), "".join(VIDEO))
    words = shared.tokenizer((*shared.CHATML, *IMAGE, *VIDEO), template, "<|im_end|>", "<|endoftext|>")
    text = shared.decoder(words, rope_parameters=ROPE, **more)
    settings = config(text_config=text, vision_config=TOWER, **_ids(words))
    with shared.seeded(seed):
        model = shared.built(kind, settings, words, _tell_apart)
    return model, _processor(model, words, names)


def _ids(words: PreTrainedTokenizerBase) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, tokens in (("image", IMAGE), ("video", VIDEO)):
        parts = (f"{name}_start_token_id", f"{name}_token_id", f"{name}_end_token_id")
        found |= {part: words.convert_tokens_to_ids(token) for part, token in zip(parts, tokens, strict=True)}
    return found


def _processor(model: Any, words: PreTrainedTokenizerBase, names: str) -> Any:
    settings = {**qwen2.VIDEO, "size": PIXELS}
    stand_in = shared.frame_processor(model, words, {**settings, "processor_class": f"{names}Processor"})
    if stand_in is not None:
        return stand_in
    import transformers

    images, videos = (getattr(transformers, f"{names}{kind}Processor")(**settings) for kind in ("Image", "Video"))
    return getattr(transformers, f"{names}Processor")(images, words, videos, chat_template=words.chat_template)


def _tell_apart(model: Any) -> None:
    """As for Qwen2.5-VL's tower: gated MLPs that outweigh the residual stream. Nothing behind them has a bias."""
    tower, merger = model.visual, model.visual.merger
    shared.random(tower.patch_embed.proj.weight, 1)
    tower.embeddings.position_embedding.weight.mul_(0.1)
    for block in tower.blocks:
        shared.random(block.attn.qkv.weight, 1)
        shared.random(block.attn.proj.weight, 0.1)
        for layer, gain in ((block.mlp.gate_proj, 4), (block.mlp.up_proj, 1), (block.mlp.down_proj, 4)):
            shared.random(layer.weight, gain)
    for layer, gain in ((tower.downsample, 1), (merger.proj, 1), (merger.gate_proj, 3), (merger.up_proj, 1)):
        shared.random(layer.weight, gain)
    shared.random(merger.down_proj.weight, 1)
