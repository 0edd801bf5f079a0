"""What vision towers derive from a clip's grid alone: made once, and kept where the tower looks at it.

Left to itself the tower asks the device for the ends of its windows in every block, and the host waits there each
time. Handed over, with the ends on the host, nothing in the tower waits, so that it can be captured in a CUDA graph.
"""

from __future__ import annotations

from typing import Any

import torch

from ..transfer import upload

WINDOWED, INTERPOLATED = ("qwen2_5_vl",), ("qwen3_vl", "qwen3_vl_moe")
KNOWN = ("qwen2_vl", "video_llama_3", "glm4v", "glm4v_moe", "glm46v", *WINDOWED, *INTERPOLATED)


def precomputed(model: Any, grid: torch.Tensor, merge: int) -> dict[str, Any]:
    """Arguments of `get_video_features` for videos of grid (N, 3) on the host, of patches T, h, w; merge x merge
    patches become a token.

    Empty where the tower does not take them: of another family, in transformers below 5.17, and under
    FlashAttention, which wants the ends of windows on the device.
    """
    vision = model.config.vision_config
    utils = _utils()
    if utils is None or model.config.model_type not in KNOWN or vision._attn_implementation not in ("sdpa", "eager"):
        return {}
    found = {"position_ids": utils.get_vision_position_ids(grid, merge)}
    ends = {"cu_seqlens": utils.get_vision_cu_seqlens(grid)}
    if model.config.model_type in WINDOWED:
        index, windows = utils.get_vision_window_index(grid, merge, vision.window_size, vision.patch_size)
        found["window_index"], ends["cu_window_seqlens"] = index, windows
    if model.config.model_type in INTERPOLATED:
        tower = model.model.visual
        taps = utils.get_vision_interpolation_indices_and_weights(
            grid,
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=merge,
        )
        found["interp_indices"], found["interp_weights"] = taps
    there = {name: upload(value, model.device) for name, value in found.items()}
    return {f"video_{name}": value for name, value in (there | ends).items()}


def _utils() -> Any:
    """The module of transformers with these rules, None where features are not asked for with their results."""
    try:
        from transformers import vision_utils
    except ImportError:
        return None
    from transformers.utils import generic

    return vision_utils if hasattr(generic, "accepts_precomputed_kwargs") else None
