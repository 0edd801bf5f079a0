"""Tiny decoders of transformers with random weights, in float32: those whose cache and RoPE are put to the test."""

from __future__ import annotations

from typing import Any

import torch

SIZES = {
    "vocab_size": 60,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
ROPE = {"rope_type": "default", "rope_theta": 1e4}
HALF = {"partial_rotary_factor": 0.5}
NAMES = ("llama", "qwen2", "glm", "qwen2_5_vl", "qwen3_vl")  # glm turns pairs


def decoder(name: str, **more: Any) -> tuple[Any, Any]:
    """(model, configuration): a causal LM of text for llama, qwen2 and glm, the text model of the others."""
    import transformers as hf
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

    makers: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "llama": (hf.LlamaForCausalLM, hf.LlamaConfig, {"rope_parameters": ROPE}),
        "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config, {"rope_parameters": ROPE}),
        "glm": (hf.GlmForCausalLM, hf.GlmConfig, {"rope_parameters": ROPE | HALF, "head_dim": 16}),
        "qwen2_5_vl": (
            Qwen2_5_VLTextModel,
            hf.Qwen2_5_VLTextConfig,
            {"rope_parameters": ROPE | {"mrope_section": [2, 3, 3]}},
        ),
        "qwen3_vl": (
            Qwen3VLTextModel,
            hf.Qwen3VLTextConfig,
            {"rope_parameters": ROPE | {"mrope_section": [6, 5, 5]}, "head_dim": 32},
        ),
    }
    maker, kind, own = makers[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = kind(**(SIZES | own | more))
        return maker(config).float().eval(), config


def axes(name: str) -> int:
    """Of the model's positions."""
    return 3 if name.endswith("vl") else 1


@torch.no_grad()
def forward(model: Any, x: torch.Tensor, cache: Any, positions: torch.Tensor | None = None, mask: Any = None) -> Any:
    """(L, V or hidden): the output for embeddings x (L, hidden), positions (axes, L)."""
    if positions is not None:
        positions = positions[:, None] if len(positions) > 1 else positions
    out = model(inputs_embeds=x[None], position_ids=positions, attention_mask=mask, past_key_values=cache)
    return out[0][0]
