"""Tiny InternVL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import shared

if TYPE_CHECKING:
    from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerBase

NAMES = {"start_image_token": "<img>", "end_image_token": "</img>"}
NAMES |= {"context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
TOWER: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TOWER |= {"patch_size": [14, 14], "image_size": [112, 112], "layer_scale_init_value": 1.0}
SIZE = {"height": 112, "width": 112}


def internvl(seed: int = 0) -> tuple[InternVLForConditionalGeneration, Any]:
    """An InternVL of about 0.3 M weights and its processor: frames of 112 x 112 become 4 x 4 tokens."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    template = shared.chat_template("<IMG_CONTEXT>\n", "<video>\n")
    special = (*shared.CHATML, *NAMES.values())
    words = shared.tokenizer(special, template, "<|im_end|>", "<|endoftext|>", **NAMES)
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **shared.decoder(words)},
        vision_config=TOWER,
        image_token_id=words.vocab["<IMG_CONTEXT>"],
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    with shared.seeded(seed):
        model = shared.built(InternVLForConditionalGeneration, config, words, _tell_apart)
    return model, _processor(model, words)


def _processor(model: Any, words: PreTrainedTokenizerBase) -> Any:
    stand_in = shared.frame_processor(model, words, {"size": SIZE})
    if stand_in is not None:
        return stand_in
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    images, videos = GotOcr2ImageProcessor(size=SIZE), InternVLVideoProcessor(size=SIZE)
    return InternVLProcessor(images, words, videos, image_seq_length=16, chat_template=words.chat_template)


def _tell_apart(model: Any) -> None:
    projector = model.multi_modal_projector
    shared.random(model.vision_tower.embeddings.patch_embeddings.projection.weight, 1)
    for layer in model.vision_tower.encoder.layer:
        shared.random(layer.attention.projection_layer.weight, 0.1)
        shared.strengthen(layer.mlp.fc1, layer.mlp.fc2)
    pictures = shared.noise(112)
    shared.centre(projector.linear_1, projector.linear_2, lambda: model.get_image_features(pictures).pooler_output)
