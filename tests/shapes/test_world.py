"""Clips are seeded, and what they show is what the world says."""

from __future__ import annotations

import numpy as np
import pytest
from staged import Actor, stage

from streamprune_triton.shapes import backgrounds, render, world


def clip(seed: int, clips: int = 3, steps: int = 6) -> tuple[world.World, np.ndarray, np.ndarray]:
    happens = world.simulate(seed, clips, steps)
    owner = render.owners(happens)
    return happens, owner, render.paint(happens, owner)


def test_a_seed_gives_the_same_bytes_and_another_gives_others():
    assert np.array_equal(clip(1)[2], clip(1)[2])
    assert not np.array_equal(clip(1)[2], clip(2)[2])


def test_shapes_and_dtypes():
    happens, owner, frames = clip(0)
    assert frames.shape == (3, 12, 48, 48, 3)
    assert frames.dtype == np.uint8
    assert owner.shape == frames.shape[:-1]
    assert happens.steps == 6


@pytest.mark.parametrize(("clips", "steps"), [(0, 1), (1, 0), (-1, 4)])
def test_nothing_is_no_clip(clips: int, steps: int):
    with pytest.raises(ValueError, match=f"clips and steps must be at least 1, got {clips} and {steps}"):
        world.simulate(0, clips, steps)


def test_a_pixel_shows_its_owner_and_no_background_looks_like_a_shape():
    happens, owner, frames = clip(5, clips=40, steps=4)
    assert set(happens.background) == set(range(len(backgrounds.BACKGROUNDS)))
    palette = np.array(list(world.COLOURS.values()))
    for k in range(world.MOST):
        where = np.nonzero(owner == k)
        assert np.array_equal(frames[where], palette[happens.colour[where[0], k]])
    behind = frames[owner == render.NOBODY].astype(int)
    assert (behind.max(-1) - behind.min(-1)).max() < 40  # greyish
    assert (palette.max(-1) - palette.min(-1)).min() > 120


def test_only_what_is_alive_is_seen():
    happens, owner, _ = clip(7, clips=20)
    share = render.visible(happens, owner)
    assert (share[~happens.alive] == 0).all()
    assert share.max() == 1
    assert 0 < (share[happens.alive] < 1).mean() < 0.5


def test_what_is_in_front_hides_and_the_edge_cuts():
    hidden = stage(Actor("red", "square", [(20, 20)]), Actor("blue", "square", [(20, 20)]))
    cut = stage(Actor("red", "square", [(0, 20)]), Actor("blue", "square", [(40, 40)]))
    assert render.visible(hidden, render.owners(hidden))[0, 0].tolist() == [0, 1, 0, 0]
    assert render.visible(cut, render.owners(cut))[0, 0].tolist() == pytest.approx([6 / 11, 1, 0, 0])


def test_every_kind_differs_from_every_other_at_every_size():
    drawn = render.sprites()
    for size in range(drawn.shape[1]):
        for a in range(len(drawn)):
            for b in range(a):
                assert (drawn[a, size] != drawn[b, size]).sum() >= 8


def test_shapes_appear_move_stop_hide_and_leave():
    """Over many clips all of it happens, and a shape that is gone does not come back."""
    happens, owner, _ = clip(3, clips=100, steps=16)
    alive = happens.alive
    begins, ends = (~alive[:, :-1] & alive[:, 1:]).sum(1), (alive[:, :-1] & ~alive[:, 1:]).sum(1)
    assert begins.max() == 1
    assert ends.max() == 1
    moved = (happens.centre[:, 1:] != happens.centre[:, :-1]).any(-1) & alive[:, 1:] & alive[:, :-1]
    assert 0.1 < moved[alive[:, 1:] & alive[:, :-1]].mean() < 0.6
    assert (render.visible(happens, owner)[alive] == 0).any()


def test_a_way_says_how_a_shape_moves():
    happens, _, _ = clip(3, clips=50, steps=8)
    within = happens.centre[:, 1::2] - happens.centre[:, ::2]
    there = happens.alive[:, ::2]
    assert np.array_equal(np.sign(within)[there], world.VELOCITIES[happens.way][there])
