"""The Pareto front of the thresholds."""

from __future__ import annotations

from .results import Results

NAME = "thresholds"


def points(found: Results) -> dict[str, tuple[float, float]]:
    """(share dropped, share right) of each pair of thresholds, means over training seeds."""
    told = {}
    for setting in found.settings(NAME):
        share, dropped = found.share(NAME, setting, NAME), found.dropped(NAME, setting, NAME)
        if share is not None and dropped is not None:
            told[setting] = (dropped, share.value)
    return told


def front(found: Results) -> list[str]:
    """The settings that no other is above in both, by the share dropped."""
    all_points = points(found)

    def beaten(point: tuple[float, float]) -> bool:
        return any(x >= point[0] and y >= point[1] and (x, y) != point for x, y in all_points.values())

    return sorted((name for name, point in all_points.items() if not beaten(point)), key=lambda name: all_points[name])
