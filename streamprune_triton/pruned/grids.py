"""The sizes of the videos in a prompt where generate() has encoded them already and no longer says."""

from __future__ import annotations

from typing import Any

import torch

_NAME = "_streamprune_grid_thw"  # on what a vision tower answers, which generate() hands to the model


def remember(module: torch.nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
    """A forward hook of a vision tower."""
    if kwargs.get("grid_thw") is not None and isinstance(output, dict):
        setattr(output, _NAME, kwargs["grid_thw"])


def remembered(arguments: dict[str, Any]) -> torch.Tensor | None:
    """(V, 3) what the tower was told of the videos whose features are among the arguments of a model."""
    return getattr((arguments.get("mm_encoder_outputs") or {}).get("video"), _NAME, None)


def with_grids(inputs: dict[str, Any], grids: torch.Tensor | None, videos: torch.Tensor) -> dict[str, Any]:
    """The model's arguments with video_grid_thw (V, 3), where a tower was told and they lack it.

    Args:
        inputs: the arguments.
        grids: what was `remembered`.
        videos: (B, L) bool, where the videos' tokens are.
    """
    if grids is None or inputs.get("video_grid_thw") is not None:
        return inputs
    lengths = [len(each) for each in inputs["mm_encoder_outputs"]["video"].pooler_output]
    return {**inputs, "video_grid_thw": _expanded(grids, lengths, videos)}


def _expanded(grids: torch.Tensor, lengths: list[int], videos: torch.Tensor) -> torch.Tensor:
    """The grids of every row: beam search repeats a prompt and its videos' features, V * times `lengths`.

    A tower that sees each step as an image was told as many grids (1, h, w); there is no beam search over those.
    """
    if len(grids) >= len(lengths):
        return grids
    times, rest, found = len(lengths) // len(grids), list(grids), []
    lengths = list(lengths)
    for count in videos[::times].sum(1).tolist():
        taken = []
        while count > 0:
            count -= lengths.pop(0)
            taken.append(rest.pop(0))
        found.extend(taken * times)
        del lengths[: len(taken) * (times - 1)]
    return torch.stack(found)
