"""What the tiny models share: a tokenizer of bytes, a decoder's sizes, weights that tell patches apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CONTENT = """\
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}\
{% if part['type'] == 'video' %}VIDEO{% elif part['type'] == 'image' %}IMAGE\
{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"""
_CHATML = """\
{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
CONTENT<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
_PLAIN = """\
{% for message in messages %}{{ message['role'].upper() }}: CONTENT {% if message['role'] == 'assistant' %}</s>\
{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"""


def chat_template(image: str, video: str, plain: bool = False) -> str:
    """Jinja for a conversation in ChatML, or in Vicuna's plain words, with what stands for an image and a video."""
    content = _CONTENT.replace("IMAGE", image).replace("VIDEO", video)
    return (_PLAIN if plain else _CHATML).replace("CONTENT", content)


def tokenizer(special: Sequence[str], template: str, end: str, pad: str, **names: str) -> PreTrainedTokenizerBase:
    """A byte-level BPE without merges: every byte one token, and the special ones.

    Args:
        special: its special tokens.
        template: for chats.
        end: the token that ends an answer.
        pad: the token that fills up a batch, on the left.
        names: special tokens by the names that a processor asks the tokenizer for.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_level = Tokenizer(models.BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    byte_level.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    more: dict[str, Any] = {"extra_special_tokens": names} if names else {}
    words = PreTrainedTokenizerFast(
        tokenizer_object=byte_level, eos_token=end, pad_token=pad, padding_side="left", **more
    )
    words.chat_template = template
    return words


def decoder(words: PreTrainedTokenizerBase, **more: Any) -> dict[str, Any]:
    """The sizes of a text model of two layers, D = 64."""
    return {
        "vocab_size": len(words),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "bos_token_id": None,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        "initializer_range": 0.2,
        **more,
    }


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """With torch's own random numbers as they were afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def built(kind: Any, config: Any, words: PreTrainedTokenizerBase, tell_patches_apart: Callable[[Any], None]) -> Any:
    """A model in float32, in evaluation mode, whose answers a terminal can show."""
    model = kind(config).float().eval()
    with torch.no_grad():
        tell_patches_apart(model.model)
        _write_ascii(model.get_output_embeddings().weight, words)
    model.generation_config.eos_token_id = words.eos_token_id
    model.generation_config.pad_token_id = words.pad_token_id
    return model


def frame_processor(model: Any, words: PreTrainedTokenizerBase, video: dict[str, Any]) -> Any:
    """What stands in for a processor whose video processor has these settings; None where there is torchvision."""
    from transformers.utils import is_torchvision_available

    from .. import adapter
    from ..processor import FrameProcessor

    if is_torchvision_available():
        return None
    images = adapter(model).frame_images(video)
    return FrameProcessor(words, images, words.chat_template, model.config.model_type)


def random(weight: torch.Tensor, gain: float) -> None:
    """Normal weights that multiply a vector's length by about `gain`."""
    weight.normal_(0, gain / weight[0].numel() ** 0.5)


def strengthen(first: torch.nn.Linear, second: torch.nn.Linear) -> None:
    """Makes an MLP outweigh the residual stream that it adds to."""
    random(first.weight, 6)
    random(second.weight, 6)
    first.bias.normal_(0, 2)


def picture_tower(tower: Any) -> None:
    """Of SigLIP's and CLIP's kind: strong projections of patches, weak attention."""
    random(tower.embeddings.patch_embedding.weight, 1)
    for layer in tower.encoder.layers:
        random(layer.self_attn.out_proj.weight, 0.1)
        strengthen(layer.mlp.fc1, layer.mlp.fc2)


def centre(first: torch.nn.Linear, second: torch.nn.Linear, features: Callable[[], torch.Tensor]) -> None:
    """Makes the mean of features (..., D) zero, which come out of the two layers."""
    random(first.weight, 3)
    random(second.weight, 0.5)
    second.bias.zero_()
    second.bias.copy_(-features().flatten(0, -2).mean(0))


def noise(size: int) -> torch.Tensor:
    """(5, 3, size, size) pictures of 2 x 2 to 32 x 32 random colours, after normalisation."""
    pictures = [torch.rand(1, 3, 2**n, 2**n) * 3.8 - 1.8 for n in range(1, 6)]
    return torch.cat([torch.nn.functional.interpolate(each, size=(size, size)) for each in pictures])


def _write_ascii(head: torch.Tensor, words: PreTrainedTokenizerBase) -> None:
    """Zeroes the head's rows of bytes that a terminal cannot show: their logits are 0, and some other's is above."""
    for n in range(head.shape[0]):
        token = str(words.convert_ids_to_tokens(n))
        if not (len(token) == 1 and "!" <= token <= "~") and token not in ("\u0120", words.eos_token):  # 0120: a space
            head[n] = 0
