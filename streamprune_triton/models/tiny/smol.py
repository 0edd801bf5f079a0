"""Tiny SmolVLM2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import shared

if TYPE_CHECKING:
    from transformers import SmolVLMForConditionalGeneration

MARKS = ("<fake_token_around_image>", "<global-img>", "<image>", "<video>", "<end_of_utterance>")
TOWER: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TOWER |= {"patch_size": 14, "image_size": 112}
SIZE = {"height": 112, "width": 112}


def smolvlm(seed: int = 0) -> tuple[SmolVLMForConditionalGeneration, Any]:
    """A SmolVLM2 of about 0.3 M weights, and a FrameProcessor: frames of 112 x 112 become 4 x 4 tokens.

    The family's own processor needs the package num2words.
    """
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    from ..processor import FrameProcessor

    template = shared.chat_template("<image>", "<video>")
    words = shared.tokenizer((*shared.CHATML, *MARKS), template, "<|im_end|>", "<|endoftext|>")
    config = SmolVLMConfig(
        text_config={"model_type": "llama", **shared.decoder(words)},
        vision_config=TOWER,
        image_token_id=words.vocab["<image>"],
    )
    with shared.seeded(seed):
        model = shared.built(SmolVLMForConditionalGeneration, config, words, _tell_apart)
    return model, FrameProcessor(words, _images(model), template)


def _images(model: Any) -> Any:
    from .. import adapter

    return adapter(model).frame_images({"size": SIZE, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})


def _tell_apart(model: Any) -> None:
    tower, project = model.vision_model, model.connector.modality_projection.proj
    shared.picture_tower(tower)
    tower.embeddings.position_embedding.weight.mul_(0.1)
    shared.random(project.weight, 1)
    rows = tower(shared.noise(112)).last_hidden_state
    tower.post_layernorm.bias.copy_(-rows.flatten(0, 1).mean(0))  # nothing behind it has a bias
