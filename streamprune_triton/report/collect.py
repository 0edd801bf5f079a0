"""What a report remembers of a stream: a few frames, evenly spread, and four numbers a step."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np

from ..attribution import BY_SPACE, BY_TIME, KEPT, attribute
from ..config import PruneConfig
from ..result import PruneResult

MOST_PIXELS = 640  # of a remembered frame, along its longer side


@dataclass(frozen=True)
class Sample:
    """One step as the report shows it.

    Attributes:
        step: its number in the stream, from 0.
        seconds: the time of its last raw frame.
        image: (height, width, 3) uint8, that frame, scaled down to MOST_PIXELS.
        fate: (H, W) uint8, one of report.attribution's codes a token.
    """

    step: int
    seconds: float
    image: np.ndarray
    fate: np.ndarray


class Collector:
    """Follows a stream in bounded memory: at most 2 * samples frames whatever its length, and four numbers a step.

    Frames are taken every `stride` steps; when there are too many, every other one goes and the stride doubles. So the
    samples are evenly spread and the first step is among them.

    Args:
        config: the configuration that the results came from.
        samples: frames to show; at least 1.

    Attributes:
        seconds: array of a float a step.
        kept, by_time, by_space: arrays of an int a step: tokens kept, dropped by time, dropped by space.
    """

    def __init__(self, config: PruneConfig, samples: int = 8) -> None:
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        self.config = config
        self.seconds = array("d")
        self.kept, self.by_time, self.by_space = array("q"), array("q"), array("q")
        self._most = samples
        self._stride = 1
        self._samples: list[Sample] = []

    def add(self, seconds: float, frame: np.ndarray, result: PruneResult) -> None:
        """Takes in the steps of `result`, of which `frame` (height, width, 3) uint8 at `seconds` ended the last."""
        fates = attribute(result, self.config)
        for n, fate in enumerate(fates):
            step = len(self.seconds)
            self.seconds.append(seconds)
            for counts, code in ((self.kept, KEPT), (self.by_time, BY_TIME), (self.by_space, BY_SPACE)):
                counts.append(int((fate == code).sum()))
            if n == len(fates) - 1 and step % self._stride == 0:
                self._samples.append(Sample(step, seconds, _shrunk(frame), fate.copy()))
                self._thin()

    def _thin(self) -> None:
        while len(self._samples) > 2 * self._most:
            self._stride *= 2
            self._samples = [each for each in self._samples if each.step % self._stride == 0]

    def samples(self) -> list[Sample]:
        """At most `samples` of the remembered steps, evenly spread, first and last included."""
        count = min(self._most, len(self._samples))
        places = np.linspace(0, len(self._samples) - 1, count).round().astype(int)
        return [self._samples[each] for each in places]


def _shrunk(frame: np.ndarray) -> np.ndarray:
    from PIL import Image

    image = Image.fromarray(frame)
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
    return np.array(image)  # a copy: the frame's own memory is let go
