"""Clips in which things change too slowly for one step to show it."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from streamprune_triton.shapes import world

from .batch import Clips, make, of_world

SLOWER = 4
RAMP = 48  # levels of 255 by which the last frame is brighter than the first


def brighter(seed: int, clips: int, steps: int) -> Clips:
    """The test clips under a light that grows evenly: RAMP levels from the first frame to the last, clipped at 255."""
    made = make(seed, clips, steps)
    count = made.frames.shape[1]
    more = torch.arange(count) * RAMP // max(1, count - 1)
    lit = (made.frames + more.to(torch.int16)[:, None, None, None]).clamp(max=255).to(torch.uint8)
    return dataclasses.replace(made, frames=lit)


def slower(seed: int, clips: int, steps: int) -> Clips:
    """Clips in which all takes SLOWER times as long: shapes that go 4 to 6 pixels a step elsewhere go 1 or 2 here."""
    return of_world(stretched(world.simulate(seed, clips, -(-steps // SLOWER)), steps))


def stretched(happens: world.World, steps: int) -> world.World:
    """The begin of a world at a SLOWERth of its pace, as so many steps; places between two frames are rounded."""
    frame = np.arange(steps * world.STEP)
    # frame n of the old world is frame SLOWER * n + SLOWER - 1; what comes before the first goes on backwards
    at = (frame + 1) / SLOWER - 1
    low = np.floor(at).astype(int).clip(0, happens.centre.shape[1] - 2)
    part = (at - low)[:, None, None]
    centre = happens.centre[:, low] * (1 - part) + happens.centre[:, low + 1] * part
    return dataclasses.replace(
        happens,
        centre=np.rint(centre).astype(np.int16),
        alive=happens.alive[:, frame // SLOWER],
        way=happens.way[:, np.arange(steps) // SLOWER],
    )
