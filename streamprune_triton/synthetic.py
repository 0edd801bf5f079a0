"""A clip made on the spot: a still textured room, a ball that crosses it, a lamp that is switched on. Seeded."""

from __future__ import annotations

from collections.abc import Iterator
from math import cos, pi, sin

import numpy as np

BALL = (220, 60, 40)
LAMP = (255, 225, 120)
NOISE = 1.5  # standard deviation of the camera's noise, of 255


class SyntheticClip:
    """Frames as `streamprune_triton.video.Video` yields them, drawn one at a time.

    Args:
        seconds: length; the lamp comes on at two thirds of it.
        fps: frames a second.
        size: (height, width) in pixels.
        seed: of the texture and the noise; the same seed gives the same bytes.

    Attributes:
        size, duration, fps: as in `Video`.

    Raises:
        ValueError: seconds or fps not above 0, or a size below 64 x 64.
    """

    def __init__(
        self, seconds: float = 16.0, fps: float = 2.0, size: tuple[int, int] = (336, 504), seed: int = 0
    ) -> None:
        if not (seconds > 0 and fps > 0):
            raise ValueError(f"seconds and fps must be above 0, got {seconds} and {fps}")
        if min(size) < 64:
            raise ValueError(f"size must be at least 64 x 64, got {size[0]} x {size[1]}")
        self.duration: float | None = seconds
        self.fps = float(fps)
        self.size = size
        self.seed = seed

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yields (seconds, (height, width, 3) uint8 RGB)."""
        rng = np.random.default_rng(self.seed)
        room = _room(rng, *self.size)
        length = self.duration or 0.0
        for n in range(round(length * self.fps)):
            seconds = n / self.fps
            frame = room.copy()
            if seconds >= length * 2 / 3:
                _lamp(frame)
            _ball(frame, seconds / length)
            frame += rng.normal(0.0, NOISE, frame.shape).astype(np.float32)
            yield seconds, frame.clip(0, 255).astype(np.uint8)


def _room(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A wall, a floor and a table, each with its own grain: (height, width, 3) float32."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    floor = y > 0.68 * height
    room = np.where(floor[..., None], (120.0, 92.0, 70.0), (150.0, 165.0, 172.0)).astype(np.float32)
    planks = 14 * np.sign(np.sin(2 * pi * x / (width / 9))) * floor
    stripes = 7 * np.sin(2 * pi * (x + 0.3 * y) / (width / 14)) * ~floor
    room += (planks + stripes)[..., None]
    table = (abs(x - 0.27 * width) < 0.17 * width) & (abs(y - 0.74 * height) < 0.10 * height)
    room[table] = (84, 60, 44)
    for octave, strength in ((8, 10.0), (24, 7.0), (80, 5.0)):
        room += strength * _grain(rng, height, width, octave)[..., None]
    return room


def _grain(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Noise of about `cells` bumps across, linear in between: (height, width)."""
    coarse = rng.normal(size=(cells + 2, cells + 2)).astype(np.float32)
    y = np.linspace(0, cells, height, dtype=np.float32)
    x = np.linspace(0, cells, width, dtype=np.float32)
    i, j = y.astype(int), x.astype(int)
    fy, fx = (y - i)[:, None], (x - j)[None, :]
    top = coarse[i][:, j] * (1 - fx) + coarse[i][:, j + 1] * fx
    bottom = coarse[i + 1][:, j] * (1 - fx) + coarse[i + 1][:, j + 1] * fx
    return top * (1 - fy) + bottom * fy


def _ball(frame: np.ndarray, progress: float) -> None:
    """A shaded ball, bouncing across the room from left to right as `progress` goes from 0 to 1."""
    height, width, _ = frame.shape
    radius = 0.13 * height
    at_x = width * (0.1 + 0.8 * progress)
    at_y = height * (0.80 - 0.5 * abs(sin(3 * pi * progress)))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    dx, dy = (x - at_x) / radius, (y - at_y) / radius
    inside = dx**2 + dy**2 < 1
    turn = 6 * pi * progress
    band = abs(dx * cos(turn) + dy * sin(turn)) < 0.22
    colour = np.where(band[..., None], (250.0, 245.0, 235.0), BALL) * (1 - 0.35 * (dx + dy))[..., None].clip(0.4, 1.3)
    frame[inside] = colour[inside]


def _lamp(frame: np.ndarray) -> None:
    """A lit lamp with its glow on the wall."""
    height, width, _ = frame.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    distance = np.hypot(x - 0.8 * width, y - 0.22 * height) / height
    frame += np.array(LAMP, np.float32) * (0.35 * np.exp(-((distance / 0.14) ** 2)))[..., None]
    frame[distance < 0.06] = LAMP
