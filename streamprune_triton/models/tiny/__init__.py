"""Tiny models with random weights, built in memory: for tests, and for a first look without a download.

Their words mean nothing. Their features do what pruning looks at: similar patches give similar features, different
patches different ones. Each function is named as the family's `model_type`, and the same seed gives the same weights.
The processor is the family's own where torchvision is installed, else a `FrameProcessor`.
"""

from .glm import glm4v, glm4v_moe, glm46v
from .internvl import internvl
from .llava import llava_next_video, llava_onevision
from .qwen2 import qwen2_5_vl, qwen2_vl
from .qwen3 import qwen3_5, qwen3_5_moe, qwen3_vl, qwen3_vl_moe
from .smol import smolvlm
from .video_llama import video_llama_3

__all__ = [
    "NAMES",
    "glm4v",
    "glm4v_moe",
    "glm46v",
    "internvl",
    "llava_next_video",
    "llava_onevision",
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_vl",
    "qwen3_vl_moe",
    "smolvlm",
    "video_llama_3",
]

NAMES = tuple(__all__[1:])
