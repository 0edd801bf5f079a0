"""One clip as a video to watch, with what can be asked about it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from . import questions, render, truth, world


class ShapesClip:
    """Frames as `streamprune_triton.video.Video` yields them, and questions whose answers are known.

    Args:
        seed: the same seed and steps give the same bytes.
        steps: length; a step is two frames, one second.

    Attributes:
        size, duration, fps: as in `Video`.

    Raises:
        ValueError: steps below 1.
    """

    size = (world.SIDE, world.SIDE)
    fps = world.FPS

    def __init__(self, seed: int = 0, steps: int = 16) -> None:
        self._world = world.simulate(seed, 1, steps)
        self._owner = render.owners(self._world)
        self.duration: float | None = steps * world.STEP / world.FPS

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yields (seconds, (SIDE, SIDE, 3) uint8 RGB)."""
        for n, frame in enumerate(render.paint(self._world, self._owner)[0]):
            yield n / self.fps, frame

    @cached_property
    def _known(self) -> np.ndarray:
        return questions.answers(truth.truth(self._world, self._owner))[0]

    def ask(self, step: int) -> dict[str, str]:
        """All questions that can be asked when steps 0 to `step` have been seen, with their answers."""
        known = self._known[step]
        return {questions.TEXTS[n]: questions.ANSWERS[known[n]] for n in np.flatnonzero(known >= 0)}
