"""What happens in a batch of clips: coloured shapes that appear, move, stop, occlude and leave. NumPy, seeded.

A world is simulated before anything is drawn, and all clips of a batch at once. Distances are pixels, times are raw
frames; a step is two frames, what Qwen2.5-VL makes one row of tokens of.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDE = 48  # pixels of a square frame: 6 x 6 tokens of 8 x 8
STEP = 2  # raw frames a step
FPS = 2.0  # a step is one second
MOST = 4  # shapes in a clip
COLOURS = {
    "red": (225, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 80, 235),
    "yellow": (240, 220, 50),
    "purple": (170, 50, 200),
    "cyan": (60, 215, 225),
}
KINDS = ("square", "circle", "triangle", "cross")
RADII = (4, 5, 6)  # a shape is 2 * radius + 1 wide
VELOCITIES = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)])  # (x, y): nowhere, left, right, up, down
MARGIN = 5  # no centre comes nearer to the edge, but on its way in or out
NEVER = 10_000  # a step that no clip reaches


@dataclass(frozen=True)
class World:
    """The exact truth of B clips of F frames with up to MOST shapes each; the later of two shapes is in front.

    Attributes:
        colour: (B, MOST) index into COLOURS, all different within a clip.
        kind: (B, MOST) index into KINDS.
        radius: (B, MOST) pixels.
        centre: (B, F, MOST, 2) x and y in pixels, int16.
        alive: (B, F, MOST) bool: the shape exists, inside the frame or on its way in or out.
        way: (B, F // STEP, MOST) index into VELOCITIES: how it moves during the step.
        background: (B,) index into `backgrounds.BACKGROUNDS`.
        seed: of the background's pixels.
    """

    colour: np.ndarray
    kind: np.ndarray
    radius: np.ndarray
    centre: np.ndarray
    alive: np.ndarray
    way: np.ndarray
    background: np.ndarray
    seed: int

    @property
    def steps(self) -> int:
        """Steps of each clip."""
        return self.way.shape[1]


def simulate(seed: int, clips: int, steps: int) -> World:
    """A batch of worlds.

    Args:
        seed: the same seed, clips and steps give the same bytes.
        clips: their number, B.
        steps: of each, half the frames.

    Raises:
        ValueError: clips or steps below 1.
    """
    if clips < 1 or steps < 1:
        raise ValueError(f"clips and steps must be at least 1, got {clips} and {steps}")
    rng = np.random.default_rng((seed, clips, steps))
    size = (clips, MOST)
    colour = rng.permuted(np.tile(np.arange(len(COLOURS)), (clips, 1)), axis=1)[:, :MOST]
    centre, alive, way = _lives(rng, clips, steps)
    return World(
        colour=colour,
        kind=rng.integers(len(KINDS), size=size),
        radius=rng.choice(RADII, size=size),
        centre=centre,
        alive=alive,
        way=way,
        background=rng.integers(5, size=clips),
        seed=int(rng.integers(2**31)),
    )


def _lives(rng: np.random.Generator, clips: int, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(centre, alive, way) of a world, step after step."""
    size = (clips, MOST)
    enter, leave = _schedule(rng, clips, steps)
    walks_in, walks_out = rng.random(size) < 0.3, rng.random(size) < 0.5
    at = _places(rng, clips)
    way, speed = rng.integers(5, size=size) * (rng.random(size) < 0.3), rng.integers(2, 4, size=size)
    inward = rng.integers(1, 5, size=size)
    at = np.where((walks_in & (enter > 0))[..., None], _outside(at, inward), at)
    gone = np.zeros(size, bool)
    centre = np.empty((clips, steps * STEP, MOST, 2), np.int16)
    alive, ways = np.empty((clips, steps * STEP, MOST), bool), np.empty((clips, steps, MOST), np.int8)
    for step in range(steps):
        here = (step >= enter) & ~gone
        entering = here & walks_in & (enter > 0) & (step < enter + 3)
        leaving = here & (step >= leave)
        gone |= leaving & (~walks_out | _is_outside(at))
        here &= ~gone
        way = _next_way(rng, way, at, speed)
        way = np.where(entering, inward, np.where(leaving & walks_out, _nearest_edge(at), way)) * here
        pace = np.where(entering | leaving, 3, speed)
        ways[:, step] = way
        for frame in range(step * STEP, step * STEP + STEP):
            at = at + VELOCITIES[way] * pace[..., None]
            centre[:, frame], alive[:, frame] = at, here
    return centre, alive, ways


def _schedule(rng: np.random.Generator, clips: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(clips, MOST) steps at which each shape enters and begins to leave, NEVER where it does not."""
    size = (clips, MOST)
    enter = rng.integers(0, max(1, (3 * steps + 3) // 4), size=size)
    enter[rng.random(size) < 0.15] = 0
    enter[np.arange(clips), rng.integers(2, size=clips)] *= rng.random(clips) < 0.2  # most clips begin with a shape
    count = rng.choice([1, 2, 3, 4], p=[0.12, 0.26, 0.34, 0.28], size=clips)
    enter[np.arange(MOST) >= count[:, None]] = NEVER
    stay = 2 + rng.integers(0, max(2, steps), size=size)
    leave = np.where(rng.random(size) < 0.55, enter + stay, NEVER)
    return enter, leave


def _places(rng: np.random.Generator, clips: int) -> np.ndarray:
    """(clips, MOST, 2) centres in different ninths of the frame."""
    ninth = rng.permuted(np.tile(np.arange(9), (clips, 1)), axis=1)[:, :MOST]
    return np.stack([ninth % 3, ninth // 3], -1) * 16 + 8 + rng.integers(-3, 4, size=(clips, MOST, 2))


def _outside(at: np.ndarray, inward: np.ndarray) -> np.ndarray:
    """Places just outside the frame from which the way `inward` leads in."""
    direction = VELOCITIES[inward]
    return np.where(direction > 0, -7, np.where(direction < 0, SIDE + 6, at))


def _is_outside(at: np.ndarray) -> np.ndarray:
    return np.any((at < -6) | (at > SIDE + 5), axis=-1)


def _nearest_edge(at: np.ndarray) -> np.ndarray:
    """The way to the nearest edge."""
    distances = np.stack([at[..., 0], SIDE - 1 - at[..., 0], at[..., 1], SIDE - 1 - at[..., 1]], -1)
    return distances.argmin(-1) + 1


def _next_way(rng: np.random.Generator, way: np.ndarray, at: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Shapes at rest set off now and then; moving ones go on, stop, or stop before the edge."""
    dice, fresh = rng.random(way.shape), rng.integers(1, 5, size=way.shape)
    way = np.where(way > 0, way * (dice < 0.75), fresh * (dice < 0.15))
    ahead = at + VELOCITIES[way] * (speed * STEP)[..., None]
    return way * ((ahead >= MARGIN) & (ahead < SIDE - MARGIN)).all(-1)
