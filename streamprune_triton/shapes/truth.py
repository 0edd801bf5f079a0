"""What is true after each step of a clip, by colour: what questions are answered from, exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .render import visible
from .world import COLOURS, MOST, NEVER, SIDE, STEP, World

TOKEN = 8  # pixels a side of what one visual token covers
OUT, VAGUE, CLEAR = 0, 1, 2
_CLEAR = 0.6  # share of a shape's pixels above which it can be told what it is
_LABEL = 12  # pixels of a token's two times 64 from which on a shape counts as being in it


@dataclass(frozen=True)
class Truth:
    """States after each step n of T, for the C = len(COLOURS) colours; a colour that a clip lacks is never seen.

    Attributes:
        status: (B, T, C) OUT (no pixel), VAGUE (a part, or alive but hidden), CLEAR (at least 0.6 of it).
        seen: (B, T, C) bool: has been CLEAR at the end of some step up to n.
        unseen: (B, T, C) bool: no pixel in any frame up to n.
        gone: (B, T, C) bool: seen, and not alive any more.
        onset: (B, T, C) the first step in which a pixel of it was seen, NEVER if none was.
        at: (B, T, C, 2) its centre, x and y, when it was last CLEAR.
        way: (B, T, C) index into VELOCITIES.
        kind: (B, C) index into KINDS.
    """

    status: np.ndarray
    seen: np.ndarray
    unseen: np.ndarray
    gone: np.ndarray
    onset: np.ndarray
    at: np.ndarray
    way: np.ndarray
    kind: np.ndarray


def truth(world: World, owner: np.ndarray) -> Truth:
    """The truth about a world of whose pixels `render.owners` has said what they show."""
    share = _by_colour(world, visible(world, owner), 0.0)
    alive = _by_colour(world, world.alive, False)[:, STEP - 1 :: STEP]
    any_pixel = share.reshape(len(share), world.steps, STEP, -1).any(2)
    share = share[:, STEP - 1 :: STEP]
    status = np.where(share >= _CLEAR, CLEAR, np.where((share > 0) | alive, VAGUE, OUT))
    seen = np.maximum.accumulate(status == CLEAR, 1)
    shown = np.maximum.accumulate(any_pixel, 1)
    onset = np.where(shown, shown.argmax(1)[:, None], NEVER)
    centre = _by_colour(world, world.centre, 0)[:, STEP - 1 :: STEP]
    return Truth(
        status=status,
        seen=seen,
        unseen=~shown,
        gone=seen & ~alive,
        onset=onset,
        at=_last(centre, status == CLEAR),
        way=_by_colour(world, world.way, 0),
        kind=_by_colour(world, world.kind[:, None], 0)[:, 0],
    )


def token_labels(world: World, owner: np.ndarray) -> dict[str, np.ndarray]:
    """What each visual token shows, of the shape that has most of its pixels; 0 is background.

    Returns:
        (B, T, H, W) int64 each: "colour" 1 + index into COLOURS, "kind" 1 + index into KINDS, "way" 1 + index into
        VELOCITIES. (B, T, H, W, 2) float32: "offset" of the shape's centre from the token's after the step, x and y in
        tokens, 0 for background.
    """
    clips, side = len(owner), SIDE // TOKEN
    blocks = owner.reshape(clips, world.steps, STEP, side, TOKEN, side, TOKEN)
    counts = np.stack([(blocks == k).sum((2, 4, 6), dtype=np.int32) for k in range(MOST)], -1)
    best, inside = counts.argmax(-1), counts.max(-1) >= _LABEL
    clip = np.arange(clips)[:, None, None, None]
    step = np.arange(world.steps)[None, :, None, None]
    named = {"colour": world.colour[clip, best], "kind": world.kind[clip, best], "way": world.way[clip, step, best]}
    labels = {name: np.where(inside, 1 + values.astype(np.int64), 0) for name, values in named.items()}
    middle = np.arange(side) * TOKEN + (TOKEN - 1) / 2
    grid = np.stack(np.meshgrid(middle, middle), -1)  # x and y
    centre = world.centre[clip, step * STEP + STEP - 1, best]
    return labels | {"offset": np.where(inside[..., None], (centre - grid) / TOKEN, 0).astype(np.float32)}


def _by_colour(world: World, values: np.ndarray, default: object) -> np.ndarray:
    """(B, N, MOST, ...) by shape as (B, N, C, ...) by colour; `default` for a colour that no shape has."""
    out = np.full((*values.shape[:2], len(COLOURS), *values.shape[3:]), default, values.dtype)
    out[np.arange(len(values))[:, None], :, world.colour] = values.swapaxes(1, 2)
    return out


def _last(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The latest valid one of values (B, T, C, 2) up to each step; the first value where there is none."""
    steps = np.arange(values.shape[1])[:, None]
    latest = np.maximum.accumulate(np.where(valid, steps, 0), 1)
    return np.take_along_axis(values, latest[..., None], 1)
