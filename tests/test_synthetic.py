"""The clip made on the spot."""

from __future__ import annotations

import numpy as np
import pytest

from streamprune_triton.synthetic import SyntheticClip


def test_frames_and_times() -> None:
    clip = SyntheticClip(seconds=3, fps=2, size=(90, 121))
    times, frames = zip(*clip, strict=True)
    assert times == (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
    assert {(frame.shape, frame.dtype) for frame in frames} == {((90, 121, 3), np.dtype(np.uint8))}
    assert clip.size == (90, 121)


def test_same_seed_same_bytes() -> None:
    def clip(seed: int) -> np.ndarray:
        return np.stack([frame for _, frame in SyntheticClip(2, 2, (64, 96), seed)])

    assert np.array_equal(clip(1), clip(1))
    assert not np.array_equal(clip(1), clip(2))


def test_still_background_moving_ball_and_a_lamp() -> None:
    frames = np.stack([frame for _, frame in SyntheticClip(6, 2)]).astype(int)
    changed = abs(frames[1:] - frames[:-1]).max(-1) > 20
    assert 0.01 < changed.mean() < 0.3
    corner = (slice(None), slice(0, 20), slice(0, 20))
    assert not changed[corner].any()
    lamp = frames[:, int(0.22 * 336), int(0.8 * 504)]
    assert (lamp[8:10] == lamp[8:10].max(0)).any()
    assert lamp[8, 0] - lamp[7, 0] > 60


@pytest.mark.parametrize("bad", [{"seconds": 0}, {"fps": 0}, {"fps": float("nan")}, {"size": (10, 200)}])
def test_bad_values(bad: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        SyntheticClip(**bad)
