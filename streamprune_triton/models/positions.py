"""Where the tokens of a video that grows stand: by the model's own rule, a step at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch

LONG_AGO = 1e3  # seconds a step: far more than any grid is wide

Ask = Callable[[int, int, int, "float | None"], torch.Tensor]


class Cursor(NamedTuple):
    """How far a video has come."""

    start: int  # a position: of the whole video, or of its next step, as the layout has it
    steps: int = 0  # so far


class Place(NamedTuple):
    """One step: text before, H*W visual tokens in raster order, the carrier, text behind."""

    positions: torch.Tensor  # (A, before + H*W + 1 + behind) int64
    next: Cursor


class Layout(Protocol):
    """Positions of a video's steps. A video begins at Cursor(position of its first token).

    Attributes:
        axes: 1, or 3 with M-RoPE (time, row, column).
    """

    axes: int

    def place(self, cursor: Cursor, before: int, behind: int, squeezed: bool = False) -> Place:
        """A step with so many tokens of text around it. `squeezed`: of a step whose visual tokens are gone, which need
        no room any more; their positions in the answer mean nothing then."""

    def end(self, cursor: Cursor) -> int:
        """The position of the first token of text behind the steps so far."""

    def skip(self, cursor: Cursor, steps: int) -> Cursor:
        """Behind steps that never came: where positions tell time, they go on."""


class Flat:
    """1-D positions: every token takes one, a carrier as well where there are carriers (VideoScan, arXiv 2503.09387).

    Args:
        grid: (H, W).
        carrier: whether each step ends with a carrier.
    """

    axes = 1

    def __init__(self, grid: tuple[int, int], carrier: bool) -> None:
        self._area = grid[0] * grid[1]
        self._carrier = int(carrier)

    def place(self, cursor: Cursor, before: int, behind: int, squeezed: bool = False) -> Place:
        area = 0 if squeezed else self._area
        lengths = torch.tensor([before, self._area, 1, behind])
        begins = torch.tensor([0, before, before + area, before + area + self._carrier])
        offsets = [begin + torch.arange(length) for begin, length in zip(begins, lengths, strict=True)]
        return Place(
            cursor.start + torch.cat(offsets)[None],
            Cursor(cursor.start + before + area + self._carrier + behind, cursor.steps + 1),
        )

    def end(self, cursor: Cursor) -> int:
        return cursor.start

    def skip(self, cursor: Cursor, steps: int) -> Cursor:
        return cursor


class Blocks:
    """M-RoPE where text tells the time and each step is a picture of its own (Qwen3-VL).

    The carrier stands at the step's time and the centre of its grid, so that nothing behind it moves.
    """

    axes = 3

    def __init__(self, grid: tuple[int, int]) -> None:
        h, w = grid
        i, j = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        picture = torch.stack([torch.zeros_like(i), i, j]).flatten(1)
        self._picture = torch.cat([picture, torch.tensor([[0], [h // 2], [w // 2]])], 1)
        self._size = max(grid)

    def place(self, cursor: Cursor, before: int, behind: int, squeezed: bool = False) -> Place:
        at = cursor.start + before
        leading, trailing = torch.arange(cursor.start, at), torch.arange(behind) + at + self._size
        positions = torch.cat([leading.expand(3, -1), at + self._picture, trailing.expand(3, -1)], 1)
        return Place(positions, Cursor(at + self._size + behind, cursor.steps + 1))

    def end(self, cursor: Cursor) -> int:
        return cursor.start

    def skip(self, cursor: Cursor, steps: int) -> Cursor:
        return cursor


class Clocked:
    """M-RoPE where a step's time is part of its position (Qwen2-VL, Qwen2.5-VL): the model's own answers, in pieces.

    It is separable: a step has one time, whatever its grid, and a place has one row and column, whatever its step. So
    one step of the real grid and a row of steps of 1 x 1 tell all positions, in the model's own arithmetic, at a cost
    that does not grow with the stream. The carrier stands at the step's time and the centre of its grid.

    Args:
        ask: (T, H, W, seconds a step, None for the video's own) -> (3, T*H*W + 1) int64, by the model's own rule:
            the positions of a video of that grid and of a token of text behind it, the video's beginning at 0.
        grid: (H, W) of the video.

    Raises:
        ValueError: where the model's rule is not separable: transformers 5.3 to 5.5 mix up rows and times of videos,
            so that a token's position depends on how many steps will follow.
    """

    axes = 3

    def __init__(self, ask: Ask, grid: tuple[int, int]) -> None:
        h, w = grid
        self._ask = ask
        step = ask(1, h, w, None)
        centre = h // 2 * w + w // 2
        self._step = torch.cat([step[:, :-1], step[:, centre : centre + 1]], 1)
        self._behind_step = int(step[0, -1])
        self._times = step[0, :1]
        # Whether text starts behind the latest time or only behind the grid: releases of transformers differ.
        far = ask(2, 1, 1, LONG_AGO)
        self._behind_time = int(far[0, -1]) > int(far[0, 1])
        both = [self.place(Cursor(0, n), 0, 0).positions[:, :-1] for n in range(2)]
        if not torch.equal(torch.cat(both, 1), ask(2, h, w, None)[:, :-1]):
            raise ValueError("model places a video's tokens by how many follow: use transformers 5.0-5.2 or 5.6 on")

    def place(self, cursor: Cursor, before: int, behind: int, squeezed: bool = False) -> Place:
        assert before == behind == 0, "no text between the steps of one video"
        positions = cursor.start + self._step
        positions[0] += self._time(cursor.steps) - self._time(0)
        return Place(positions, Cursor(cursor.start, cursor.steps + 1))

    def end(self, cursor: Cursor) -> int:
        if not cursor.steps:
            return cursor.start
        latest = self._time(cursor.steps - 1) + 1 if self._behind_time else 0
        return cursor.start + max(self._behind_step, latest)

    def skip(self, cursor: Cursor, steps: int) -> Cursor:
        return Cursor(cursor.start, cursor.steps + steps)

    def _time(self, step: int) -> int:
        times = self._times
        if step >= len(times):  # doubled, so that all questions together cost 8 bytes a step
            times = self._ask(max(64, 2 * (step + 1)), 1, 1, None)[0, :-1].clone()
            if len(times) > len(self._times):  # another thread may have asked for more meanwhile
                self._times = times
        return int(times[step])
