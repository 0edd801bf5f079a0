"""What is behind the shapes: five kinds of background, all greyish, so that no shape's colour is among them."""

from __future__ import annotations

import numpy as np

from .world import SIDE

BACKGROUNDS = ("flat", "gradient", "texture", "noise", "camera")
_BANK = 1 << 20  # bytes of camera noise that frames take their own from


def backgrounds(rng: np.random.Generator, kind: np.ndarray, frames: int) -> np.ndarray:
    """(B, frames, SIDE, SIDE, 3) uint8 for kinds (B,).

    flat: one grey. gradient: from one grey to another, in any direction. texture: tiles that repeat. noise: new in
    each frame. camera: a large picture that slides by as a camera pans. All have a little camera noise.
    """
    clips = len(kind)
    base = rng.integers(64, 150, size=(clips, 1, 1, 1, 1)) + rng.integers(-14, 15, size=(clips, 1, 1, 1, 3))
    strength = np.where(kind == BACKGROUNDS.index("noise"), 24, 3)
    pattern = _noise(rng, strength, frames)
    for name, draw in (("gradient", _gradient), ("texture", _texture), ("camera", _camera)):
        of = np.flatnonzero(kind == BACKGROUNDS.index(name))
        if len(of):
            pattern[of] += draw(rng, len(of), frames).astype(np.int8)
    # |pattern| <= 38 < base < 255 - 38, so that the sum modulo 256 is the sum
    return pattern.view(np.uint8)[..., None] + base.astype(np.uint8)


def _gradient(rng: np.random.Generator, clips: int, frames: int) -> np.ndarray:
    slope = rng.uniform(-0.7, 0.7, size=(clips, 2, 1, 1))
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    return (slope[:, 0] * x + slope[:, 1] * y)[:, None].clip(-34, 34)


def _texture(rng: np.random.Generator, clips: int, frames: int) -> np.ndarray:
    tile = rng.integers(-28, 29, size=(clips, 6, 6))
    return np.tile(tile, (1, SIDE // 6, SIDE // 6))[:, None]


def _camera(rng: np.random.Generator, clips: int, frames: int) -> np.ndarray:
    """A window that slides at up to two pixels a frame over a picture of coarse blocks, which repeats."""
    picture = rng.integers(-26, 27, size=(clips, 16, 16)).repeat(6, 1).repeat(6, 2)  # 96 x 96
    pace = rng.integers(-2, 3, size=(clips, 1, 2))
    origin = np.arange(frames)[None, :, None] * pace + rng.integers(96, size=(clips, 1, 2))
    rows = (origin[..., 0, None] + np.arange(SIDE)) % 96
    columns = (origin[..., 1, None] + np.arange(SIDE)) % 96
    return picture[np.arange(clips)[:, None, None, None], rows[..., :, None], columns[..., None, :]]


def _noise(rng: np.random.Generator, strength: np.ndarray, frames: int) -> np.ndarray:
    """(B, frames, SIDE, SIDE) int8 within +- strength: windows at random places of one bank of noise."""
    noise = np.empty((len(strength), frames, SIDE * SIDE), np.int8)
    bank = np.frombuffer(rng.bytes(_BANK), np.int8).astype(np.int16)
    scaled = {n: (bank * n >> 7).astype(np.int8) for n in set(strength.tolist())}
    starts = rng.integers(0, _BANK - SIDE * SIDE, size=noise.shape[:2])
    for clip, frame in np.ndindex(*starts.shape):
        start = starts[clip, frame]
        noise[clip, frame] = scaled[strength[clip]][start : start + SIDE * SIDE]
    return noise.reshape(*starts.shape, SIDE, SIDE)
