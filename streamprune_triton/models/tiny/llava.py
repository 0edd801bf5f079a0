"""Tiny LLaVA-OneVision and LLaVA-NeXT-Video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import shared

if TYPE_CHECKING:
    from transformers import (
        LlavaNextVideoForConditionalGeneration,
        LlavaOnevisionForConditionalGeneration,
        PreTrainedTokenizerBase,
    )

TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TOWER |= {"patch_size": 14}
ONE = {"height": 98, "width": 98}
NEXT = {"size": {"shortest_edge": 112}, "crop_size": {"height": 112, "width": 112}}


def pinpoints(edge: int) -> list[list[int]]:
    """Sizes that an image is fitted to."""
    return [[edge, edge], [edge, 2 * edge], [2 * edge, edge]]


def llava_onevision(seed: int = 0) -> tuple[LlavaOnevisionForConditionalGeneration, Any]:
    """A LLaVA-OneVision of about 0.3 M weights and its processor: frames of 98 x 98 become 7 x 7, then 4 x 4 tokens."""
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    template = shared.chat_template("<image>\n", "<video>\n")
    words = shared.tokenizer((*shared.CHATML, "<image>", "<video>"), template, "<|im_end|>", "<|endoftext|>")
    tower = {**TOWER, "model_type": "siglip_vision_model", "image_size": 98, "vision_use_head": False}
    text = {"model_type": "qwen2", **shared.decoder(words)}
    more = {"image_grid_pinpoints": pinpoints(98), **_ids(words)}
    config = LlavaOnevisionConfig(text_config=text, vision_config=tower, **more)
    with shared.seeded(seed):
        model = shared.built(LlavaOnevisionForConditionalGeneration, config, words, _tell_apart)
    return model, _onevision_processor(model, words)


def llava_next_video(seed: int = 0) -> tuple[LlavaNextVideoForConditionalGeneration, Any]:
    """A LLaVA-NeXT-Video of about 0.3 M weights and its processor: frames of 112 x 112 become 4 x 4 tokens."""
    from transformers import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

    template = shared.chat_template("<image>\n", "<video>\n", plain=True)
    words = shared.tokenizer(("<s>", "</s>", "<pad>", "<image>", "<video>"), template, "</s>", "<pad>")
    tower = {**TOWER, "model_type": "clip_vision_model", "image_size": 112}
    text = {"model_type": "llama", **shared.decoder(words)}
    more = {"image_grid_pinpoints": pinpoints(112), **_ids(words)}
    config = LlavaNextVideoConfig(text_config=text, vision_config=tower, **more)
    with shared.seeded(seed):
        model = shared.built(LlavaNextVideoForConditionalGeneration, config, words, _tell_apart)
    return model, _next_video_processor(model, words)


def _ids(words: PreTrainedTokenizerBase) -> dict[str, Any]:
    tokens = {"image_token_index": "<image>", "video_token_index": "<video>"}
    return {name: words.convert_tokens_to_ids(token) for name, token in tokens.items()}


def _onevision_processor(model: Any, words: PreTrainedTokenizerBase) -> Any:
    stand_in = shared.frame_processor(model, words, {"size": ONE})
    if stand_in is not None:
        return stand_in
    from transformers import LlavaOnevisionImageProcessor, LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor

    images = LlavaOnevisionImageProcessor(size=ONE, image_grid_pinpoints=pinpoints(98))
    return LlavaOnevisionProcessor(
        images,
        words,
        LlavaOnevisionVideoProcessor(size=ONE),
        num_image_tokens=49,
        vision_feature_select_strategy="full",
        chat_template=words.chat_template,
    )


def _next_video_processor(model: Any, words: PreTrainedTokenizerBase) -> Any:
    stand_in = shared.frame_processor(model, words, NEXT)
    if stand_in is not None:
        return stand_in
    from transformers import LlavaNextImageProcessor, LlavaNextVideoProcessor, LlavaNextVideoVideoProcessor

    return LlavaNextVideoProcessor(
        video_processor=LlavaNextVideoVideoProcessor(**NEXT),
        image_processor=LlavaNextImageProcessor(**NEXT, image_grid_pinpoints=pinpoints(112)),
        tokenizer=words,
        patch_size=14,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=words.chat_template,
    )


def _tell_apart(model: Any) -> None:
    tower, projector = getattr(model.vision_tower, "vision_model", model.vision_tower), model.multi_modal_projector
    shared.picture_tower(tower)
    tower.embeddings.position_embedding.weight.mul_(0.1)
    pictures = shared.noise(model.config.vision_config.image_size)[None]
    shared.centre(projector.linear_1, projector.linear_2, lambda: model.get_video_features(pictures).pooler_output[0])
