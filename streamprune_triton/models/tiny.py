"""Tiny models with random weights, built in memory: for tests, and for a first look without a download.

Their words mean nothing. Their features do what pruning looks at: similar patches give similar features, different
patches different ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .processor import FrameProcessor, pil_image_processor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PIXELS = {"shortest_edge": 4 * 28 * 28, "longest_edge": 256 * 28 * 28}  # of a resized frame

# A conversation in ChatML, a video as its three vision tokens: what Qwen2.5-VL's own template comes to.
CHAT_TEMPLATE = """\
{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}\
{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>\
{% elif part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def qwen2_5_vl(seed: int = 0) -> tuple[Qwen2_5_VLForConditionalGeneration, Any]:
    """A Qwen2.5-VL of about 0.4 M weights in float32, in evaluation mode, and its processor.

    The vision tower has a windowed and a full-attention block over patches of 14 x 14, merged 2 x 2 to D = 64; the
    language model has two layers with M-RoPE. The processor is Qwen2_5_VLProcessor where torchvision is installed,
    else a FrameProcessor.

    Args:
        seed: of the weights; the same seed gives the same weights.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    words = tokenizer()
    ids: dict[str, Any] = {token: words.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(words),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "initializer_range": 0.2,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config).float().eval()
        _tell_patches_apart(model.model.visual)
        _write_ascii(model.lm_head.weight, words)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model, _processor(words)


def tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level BPE without merges, every byte one token, with Qwen's special tokens and chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_level = Tokenizer(models.BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    byte_level.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    words = PreTrainedTokenizerFast(
        tokenizer_object=byte_level, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )
    words.chat_template = CHAT_TEMPLATE
    return words


def _processor(words: PreTrainedTokenizerBase) -> Any:
    from transformers.utils import is_torchvision_available

    images = pil_image_processor()(size=dict(PIXELS), patch_size=14, temporal_patch_size=2, merge_size=2)
    if not is_torchvision_available():
        return FrameProcessor(words, images, CHAT_TEMPLATE)
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    images = Qwen2VLImageProcessor(size=dict(PIXELS), patch_size=14, temporal_patch_size=2, merge_size=2)
    videos = Qwen2VLVideoProcessor(size=dict(PIXELS), patch_size=14, temporal_patch_size=2, merge_size=2)
    return Qwen2_5_VLProcessor(images, words, videos, chat_template=CHAT_TEMPLATE)


@torch.no_grad()
def _tell_patches_apart(tower: Any) -> None:
    """Weights for a vision tower whose features of unlike patches are nearly orthogonal.

    A random transformer's features nearly all point the same way. Here the gated MLPs, which multiply two projections
    of a patch, outweigh the residual stream, so that similarity falls off like a high power of the patches' own;
    attention, which mixes patches, stays weak; the merger's last bias centres the features over coloured noise.
    """

    def random(weight: torch.Tensor, gain: float) -> None:
        weight.normal_(0, gain / weight[0].numel() ** 0.5)

    random(tower.patch_embed.proj.weight, 1)
    for block in tower.blocks:
        random(block.attn.qkv.weight, 1)
        random(block.attn.proj.weight, 0.1)
        random(block.mlp.gate_proj.weight, 4)
        random(block.mlp.up_proj.weight, 1)
        random(block.mlp.down_proj.weight, 4)
    tower.blocks[0].mlp.down_proj.bias.normal_(0, 0.5)  # a norm forgets brightness unless something adds to it
    tower.blocks[0].mlp.gate_proj.bias.normal_(0, 0.5)
    random(tower.merger.mlp[0].weight, 3)
    random(tower.merger.mlp[2].weight, 0.5)
    tower.merger.mlp[2].bias.zero_()
    noise = torch.cat([_noise(2**n) for n in range(1, 6)])
    grid = torch.tensor([[1, 16, 16]] * 5)
    tower.merger.mlp[2].bias.copy_(-tower(noise, grid_thw=grid).pooler_output.mean(0))


@torch.no_grad()
def _write_ascii(head: torch.Tensor, words: PreTrainedTokenizerBase) -> None:
    """Zeroes the head's rows of bytes that a terminal cannot show: their logits are 0, and some other's is above."""
    for n in range(head.shape[0]):
        token = str(words.convert_ids_to_tokens(n))
        if not (len(token) == 1 and "!" <= token <= "~") and token not in ("\u0120", "<|im_end|>"):  # 0120: a space
            head[n] = 0


def _noise(squares: int) -> torch.Tensor:
    """Patches (256, 3*2*14*14) of a still picture of squares x squares random colours, after normalisation."""
    picture = torch.rand(3, squares, squares) * 3.8 - 1.8
    picture = torch.nn.functional.interpolate(picture[None], size=(224, 224))[0]
    patches = picture.view(3, 8, 2, 14, 8, 2, 14).permute(1, 4, 2, 5, 0, 3, 6)  # row, column, 2 x 2, C, pixels
    return patches.unsqueeze(5).expand(-1, -1, -1, -1, -1, 2, -1, -1).reshape(256, -1)
