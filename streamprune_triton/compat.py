"""Drop-ins for peers' pruning functions: their signatures and formulas, decided in fp32 by this library's own step.

Nothing in here waits for the host, unless a size is handed over in a tensor on a device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import torch

from .config import PruneConfig
from .pruner import prune
from .validate import check_features


def compute_retained_tokens_count(tokens_per_frame: int, num_frames: int, q: float) -> int:
    """How many tokens `compute_retention_mask` keeps: max(tokens_per_frame, int(all tokens * (1 - q))).

    Args:
        tokens_per_frame: tokens of a frame, after the merger.
        num_frames: frames of the video, in steps of the model's grid.
        q: share of the tokens to drop, in [0, 1].

    Returns:
        The count, known before the features are: an engine can size its placeholders with it.

    Raises:
        ValueError, TypeError: naming the argument: q outside [0, 1], or a negative number of tokens or frames.
    """
    if not 0 <= _number("q", q, Real) <= 1:
        raise ValueError(f"q must be in [0, 1], the share of the tokens to drop, got {q}")
    for name, value in (("tokens_per_frame", tokens_per_frame), ("num_frames", num_frames)):
        if _number(name, value, Integral) < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    return int(max(tokens_per_frame, int(tokens_per_frame * num_frames * (1 - q))))


def compute_retention_mask(
    video_embeds: torch.Tensor,
    video_size_thw: torch.Tensor | Sequence[int],
    spatial_merge_size: int,
    q: float,
) -> torch.Tensor:
    """EVS (arXiv 2510.14624), signature as in vLLM and SGLang: keeps what differs most from the frame before.

    The first frame stays, and of the rest the tokens of lowest cosine similarity to the previous frame at their place,
    over the whole video; ties go to the lower index. The cosine is summed and compared in fp32 whatever the dtype of
    the features. The published function computes it in that dtype: in bfloat16 a near-static video has a handful of
    distinct values, and the order of the places decides.

    Args:
        video_embeds: (T*H*W / merge^2, hidden), or any shape with as many rows, such as (T, H / merge, W / merge,
            hidden); float32, bfloat16 or float16.
        video_size_thw: (T, H, W), H and W before the merger.
        spatial_merge_size: by how much the merger shrinks H and W.
        q: share of the tokens to drop, in [0, 1].

    Returns:
        (T*H*W / merge^2,) bool, True for the tokens that stay: `compute_retained_tokens_count` of them, none for T = 0.
        For the sake of that count tokens with a NaN or Inf, which rank last, stay where the others are too few.

    Raises:
        ValueError, TypeError: naming the argument, before anything is computed.
    """
    x = _grid(video_embeds, video_size_thw, spatial_merge_size)
    kept = compute_retained_tokens_count(x.shape[1] * x.shape[2], x.shape[0], q)
    config = PruneConfig(
        temporal_threshold=None,
        spatial_threshold=None,
        mask=None,
        keep_tokens=kept,
        scope="clip",
        carrier=None,
    )
    keep = prune(x, config).keep.flatten()
    others = ~keep
    return keep | (others & (others.cumsum(0) <= kept - keep.sum()))


def dtd(features: torch.Tensor, tau: float, previous: torch.Tensor | None = None) -> torch.Tensor:
    """Differential token drop (DTD, arXiv 2504.17343) for all tokens at once.

    A token is dropped where its cosine similarity to the previous frame's token at its place, dropped or not, is above
    `tau`; decided in fp32. A first frame without a previous one is kept whole. A video cut into chunks gives the same
    mask as in one call if each chunk is given the last frame of the one before:

        keep = dtd(chunk, tau, previous)
        previous = chunk[-1]

    Args:
        features: (T, H, W, D), or (T, N, D) without a grid; float32, bfloat16 or float16.
        tau: in [-1, 1].
        previous: the frame before the first, of a frame's shape; None at the beginning.

    Returns:
        bool keep mask of the shape of `features` without D. Tokens with a NaN or Inf are dropped.

    Raises:
        ValueError, TypeError: naming the argument, before anything is computed.
    """
    if not -1 <= _number("tau", tau, Real) <= 1:
        raise ValueError(f"tau must be in [-1, 1], got {tau}")
    x = _frames(features)
    config = PruneConfig(temporal_threshold=float(tau), spatial_threshold=None, mask=None, carrier=None)
    state = None if previous is None else prune(_previous(previous, features, x), config).state
    return prune(x, config, state=state).keep.view(features.shape[:-1])


def _grid(
    video_embeds: torch.Tensor, video_size_thw: torch.Tensor | Sequence[int], spatial_merge_size: int
) -> torch.Tensor:
    """The features as (T, H, W, D) after the merger."""
    if not isinstance(video_embeds, torch.Tensor):
        raise TypeError(f"video_embeds must be a tensor, got {type(video_embeds).__name__}")
    merge = int(_number("spatial_merge_size", spatial_merge_size, Integral))
    if merge < 1:
        raise ValueError(f"spatial_merge_size must be at least 1, got {spatial_merge_size}")
    size = _size(video_size_thw)
    t, h, w = size[0], size[1] // merge, size[2] // merge
    if video_embeds.ndim < 2 or video_embeds.shape[:-1].numel() != t * h * w:
        raise ValueError(
            f"video_embeds must have {t * h * w} rows, {t} frames of {h} x {w} for video_size_thw={size} and "
            f"spatial_merge_size={merge}, got shape {tuple(video_embeds.shape)}"
        )
    return check_features(video_embeds.detach().reshape(t, h, w, video_embeds.shape[-1]), "video_embeds")


def _size(thw: object) -> tuple[int, ...]:
    """(T, H, W) as integers, from a tensor or a sequence of whole numbers of any type."""
    numbers = thw.tolist() if isinstance(thw, torch.Tensor) else thw
    if not isinstance(numbers, Iterable) or isinstance(numbers, str):
        raise TypeError(f"video_size_thw must be three numbers (T, H, W), got {type(thw).__name__}")
    size = tuple(numbers)
    if len(size) != 3 or not all(isinstance(number, Real) and float(number) >= 0 for number in size):
        raise ValueError(f"video_size_thw must be three numbers (T, H, W), at least 0 each, got {size}")
    return tuple(map(int, size))


def _number(name: str, value: Any, kind: type) -> Any:
    if isinstance(value, bool) or not isinstance(value, kind):
        what = "an integer" if kind is Integral else "a number"
        raise TypeError(f"{name} must be {what}, got {type(value).__name__}")
    return value


def _frames(features: torch.Tensor) -> torch.Tensor:
    """The features as (T, H, W, D); without a grid, a frame is one row of tokens."""
    if not isinstance(features, torch.Tensor):
        raise TypeError(f"features must be a tensor (T, H, W, D) or (T, N, D), got {type(features).__name__}")
    if features.ndim not in (3, 4):
        raise ValueError(f"features must have shape (T, H, W, D) or (T, N, D), got {tuple(features.shape)}")
    x = features.detach()
    return check_features(x if x.ndim == 4 else x[:, None], "features")


def _previous(previous: torch.Tensor, features: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The previous frame as a stream (1, H, W, D) of its own."""
    if not isinstance(previous, torch.Tensor):
        raise TypeError(f"previous must be a tensor or None, got {type(previous).__name__}")
    for what, got, wanted in (
        ("shape", tuple(previous.shape), tuple(features.shape[1:])),
        ("dtype", previous.dtype, features.dtype),
        ("device", previous.device, features.device),
    ):
        if got != wanted:
            raise ValueError(f"previous must have the {what} of a frame of features, {wanted}, got {got}")
    return previous.detach().reshape(1, *x.shape[1:])
