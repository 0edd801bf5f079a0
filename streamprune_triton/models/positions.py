"""M-RoPE positions of a video that grows: the model's own answers, asked for in pieces."""

from __future__ import annotations

from collections.abc import Callable

import torch

LONG_AGO = 1e3  # seconds a step: far more than any grid is wide

Ask = Callable[[int, int, int, "float | None"], torch.Tensor]


class VideoPositions:
    """Positions of a video's tokens and of the text behind it. M-RoPE is separable: a step has one time, whatever its
    grid, and a place has one row and column, whatever its step. So one step of the real grid and a row of steps of
    1 x 1 tell all positions, in the model's own arithmetic, at a cost that does not grow with the stream.

    Args:
        ask: (T, H, W, seconds a step, None for the video's own) -> (3, T*H*W + 1) int64, by the model's own rule:
            the positions of a video of that grid and of a token of text behind it.
        grid: (H, W) of the video.

    Raises:
        ValueError: where the model's rule is not separable: transformers 5.3 to 5.5 mix up rows and times of videos,
            so that a token's position depends on how many steps will follow.
    """

    def __init__(self, ask: Ask, grid: tuple[int, int]) -> None:
        self._ask = ask
        step = ask(1, *grid, None)
        self._step = step[:, :-1]
        self._behind_step = int(step[0, -1])
        self._times = step[0, :1]
        # Whether text starts behind the latest time or only behind the grid: releases of transformers differ.
        far = ask(2, 1, 1, LONG_AGO)
        self._behind_time = int(far[0, -1]) > int(far[0, 1])
        if not torch.equal(self.steps(0, 2), ask(2, *grid, None)[:, :-1]):
            raise ValueError("model places a video's tokens by how many follow: use transformers 5.0-5.2 or 5.6 on")

    def steps(self, first: int, count: int) -> torch.Tensor:
        """(3, count*H*W) int64: positions of `count` steps from step number `first` on, in raster-then-time order."""
        times = self._times_of(first, count) - self._times[0]
        positions = self._step[:, None, :].repeat(1, count, 1)
        positions[0] += times[:, None]
        return positions.flatten(1)

    def behind(self, steps: int) -> int:
        """The position of the first token of text behind a video of so many steps, at least 1."""
        latest = int(self._times_of(steps - 1, 1)) + 1 if self._behind_time else 0
        return max(self._behind_step, latest)

    def _times_of(self, first: int, count: int) -> torch.Tensor:
        if first + count > len(self._times):  # doubled, so that all questions together cost 8 bytes a step
            self._times = self._ask(max(64, 2 * (first + count)), 1, 1, None)[0, :-1]
        return self._times[first : first + count]
