"""Whether a backend decides what the formulas say, on one small stream of features."""

from __future__ import annotations

import numpy as np

SHAPE = (5, 7, 9, 160)
MARGIN = 1e-5  # similarities nearer to a threshold may fall on either side
TOLERANCE = 1e-5


def check(backend: str, device: str) -> list[str]:
    """What the backend gets wrong on the device; empty if nothing. Raises what the backend raises."""
    import torch

    from ..config import PruneConfig
    from ..pruner import prune

    config = PruneConfig()
    features = _stream()
    x = torch.from_numpy(features).to(device)
    first = prune(x[:2], config, backend=backend)
    second = prune(x[2:], config, state=first.state, backend=backend)
    temporal, spatial, keep, near = _expected(features, config.temporal_threshold, config.spatial_threshold)

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(each, name).cpu().numpy() for each in (first, second)])

    faults = []
    if not np.allclose(joined("temporal"), temporal, atol=TOLERANCE, rtol=0, equal_nan=True):
        faults.append("temporal similarities")
    if not np.allclose(joined("spatial"), spatial, atol=TOLERANCE, rtol=0):
        faults.append("spatial similarities")
    if ((joined("keep") != keep) & ~near).any():
        faults.append("decisions")
    if not np.array_equal(joined("tokens"), features[joined("keep")]):
        faults.append("kept tokens")
    if not np.allclose(joined("carriers"), features.mean((1, 2)), atol=TOLERANCE, rtol=0):
        faults.append("carriers")
    return faults


def _stream() -> np.ndarray:
    """SHAPE float32 features whose similarities lie on both sides of the thresholds."""
    rng = np.random.default_rng(0)
    t, h, w, d = SHAPE
    shared = rng.normal(size=(1, 1, 1, d)) + 0.8 * rng.normal(size=(1, h, w, d))
    change = rng.uniform(0.2, 3.0, size=(t, h, w, 1)) * rng.normal(size=(t, h, w, d))
    return (shared + change).astype(np.float32)


def _expected(x: np.ndarray, above_time: float | None, above_space: float | None) -> tuple[np.ndarray, ...]:
    """(temporal, spatial, keep, near a threshold), each (T, H, W), from the definitions in float64."""
    assert above_time is not None
    assert above_space is not None
    unit = x.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    t, h, w, _ = x.shape
    temporal = np.full((t, h, w), np.nan)
    temporal[1:] = (unit[1:] * unit[:-1]).sum(-1)
    spatial = np.full((t, h, w), -np.inf)
    right, down = (unit[:, :, 1:] * unit[:, :, :-1]).sum(-1), (unit[:, 1:] * unit[:, :-1]).sum(-1)
    for here, edge in (
        (spatial[:, :, :-1], right),
        (spatial[:, :, 1:], right),
        (spatial[:, :-1], down),
        (spatial[:, 1:], down),
    ):
        np.maximum(here, edge, out=here)
    i, j = np.mgrid[:h, :w]
    drop = (temporal > above_time) | ((i + j) % 2 == 1) & (spatial > above_space)
    near = (abs(temporal - above_time) < MARGIN) | (abs(spatial - above_space) < MARGIN)
    return temporal, spatial, ~drop, near
