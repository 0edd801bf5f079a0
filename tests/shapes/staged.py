"""Worlds arranged by hand, so that a reader can tell the answers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamprune_triton.shapes.world import COLOURS, KINDS, MOST, STEP, VELOCITIES, World


class Actor(NamedTuple):
    """A shape: where it is in each step, None where it does not exist, and how it moves from there."""

    colour: str
    kind: str
    places: list[tuple[int, int] | None]
    way: int = 0  # index into VELOCITIES, of every step


def stage(*actors: Actor, radius: int = 5) -> World:
    """A world of one clip in which the actors stand or move as they say; the last one is in front."""
    steps = len(actors[0].places)
    centre = np.zeros((1, steps * STEP, MOST, 2), np.int16)
    alive = np.zeros((1, steps * STEP, MOST), bool)
    way = np.zeros((1, steps, MOST), np.int8)
    spare = [colour for colour in COLOURS if colour not in [actor.colour for actor in actors]]
    for k, actor in enumerate(actors):
        for step, place in enumerate(actor.places):
            if place is not None:
                for frame in (0, 1):
                    centre[0, step * STEP + frame, k] = place + VELOCITIES[actor.way] * (frame - 1)
                    alive[0, step * STEP + frame, k] = True
                way[0, step, k] = actor.way
    names = [actor.colour for actor in actors] + spare
    kinds = [KINDS.index(actor.kind) for actor in actors] + [0] * MOST
    return World(
        colour=np.array([[list(COLOURS).index(name) for name in names[:MOST]]]),
        kind=np.array([kinds[:MOST]]),
        radius=np.full((1, MOST), radius),
        centre=centre,
        alive=alive,
        way=way,
        background=np.zeros(1, int),
        seed=0,
    )
