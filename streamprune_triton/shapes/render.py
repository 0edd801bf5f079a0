"""Pictures of a world, and what can be seen in them."""

from __future__ import annotations

from functools import cache

import numpy as np

from .backgrounds import backgrounds
from .world import COLOURS, KINDS, MOST, RADII, SIDE, World

_BORDER = 24  # around the canvas, for shapes that are partly or wholly outside
_SPRITE = 2 * max(RADII) + 1
NOBODY = -1


def owners(world: World) -> np.ndarray:
    """(B, F, SIDE, SIDE) int8: which of a clip's shapes each pixel shows, NOBODY for the background."""
    clips, frames = world.alive.shape[:2]
    wide = SIDE + 2 * _BORDER
    canvas = np.full((clips * frames, wide * wide), NOBODY, np.int8)
    for k in range(MOST):
        clip, frame = np.nonzero(world.alive[:, :, k])
        row = (clip * frames + frame)[:, None]
        sprite = sprites()[world.kind[clip, k], world.radius[clip, k] - min(RADII)].reshape(len(clip), _SPRITE**2)
        corner = world.centre[clip, frame, k].astype(np.int64).clip(-12, SIDE + 11) - max(RADII) + _BORDER
        pixels = (corner[:, 1] * wide + corner[:, 0])[:, None] + _within(wide)
        canvas[row, pixels] = np.where(sprite, np.int8(k), canvas[row, pixels])
    canvas = canvas.reshape(clips, frames, wide, wide)
    return canvas[:, :, _BORDER : _BORDER + SIDE, _BORDER : _BORDER + SIDE]


def paint(world: World, owner: np.ndarray) -> np.ndarray:
    """(B, F, SIDE, SIDE, 3) uint8 RGB of a world with the `owners` of its pixels; the same world gives the same."""
    rng = np.random.default_rng(world.seed)
    frames = backgrounds(rng, world.background, owner.shape[1])
    palette = np.array(list(COLOURS.values()), np.uint8)[world.colour]
    shown = owner != NOBODY
    clip = np.broadcast_to(np.arange(len(owner))[:, None, None, None], owner.shape)[shown]
    frames[shown] = palette[clip, owner[shown]]
    return frames


def visible(world: World, owner: np.ndarray) -> np.ndarray:
    """(B, F, MOST) float32: the share of each shape's pixels that can be seen, 0 where it is not there."""
    area = sprites().sum((-1, -2))[world.kind, world.radius - min(RADII)]
    seen = np.stack([(owner == k).sum((-1, -2)) for k in range(MOST)], -1)
    return (seen / area[:, None]).astype(np.float32)


@cache
def sprites() -> np.ndarray:
    """(KINDS, RADII, 13, 13) bool: every shape at every size."""
    y, x = np.mgrid[:_SPRITE, :_SPRITE] - max(RADII)
    drawn = np.zeros((len(KINDS), len(RADII), _SPRITE, _SPRITE), bool)
    for n, r in enumerate(RADII):
        box = (abs(x) <= r) & (abs(y) <= r)
        drawn[KINDS.index("square"), n] = box
        drawn[KINDS.index("circle"), n] = x**2 + y**2 <= (r + 0.5) ** 2
        drawn[KINDS.index("triangle"), n] = box & (2 * abs(x) <= y + r + 1)
        drawn[KINDS.index("cross"), n] = box & ((abs(x) <= r // 3) | (abs(y) <= r // 3))
    return drawn


@cache
def _within(wide: int) -> np.ndarray:
    """Offsets of a sprite's pixels in a flat canvas."""
    y, x = np.mgrid[:_SPRITE, :_SPRITE]
    return (y * wide + x).ravel()
