"""The heading of each table, and what a reader must know of it; a table without an entry is headed by its name."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {
    "ratios": ("Every method at the same number of tokens", ""),
    "masks": (
        "What the spatial stage may drop, and by which neighbours",
        "Behind the same temporal stage. *Alternate* flips the checkerboard with every step; *random mask* is another "
        "half of the places for each clip. *One by one* has no mask: the most redundant token goes, then the next, "
        "compared with neighbours that are still there; this is what masks stand in for. *All at once* is the same "
        "without the order. *Any of the frame*: on the checkerboard, the most similar token of the frame, not of four "
        "neighbours.",
    ),
    "content": (
        "By background and motion",
        "Of more clips than elsewhere. Motion: thirds of them, by the steps in which shapes move.",
    ),
    "thresholds": (
        "Both thresholds",
        "A temporal threshold a line, a spatial one a column. Clips keep different numbers of tokens.",
    ),
    "budgets": (
        "Thresholds or an exact budget, at the same share",
        "*Thresholds*: one value for both, at which the mean over all clips is the share.",
    ),
    "reference": (
        "Compared with the step before, or with the last token kept",
        "`spatial_threshold=0.5`. *Growing light*: all frames get brighter evenly, by 48 levels of 255 from the first "
        "to the last. *Slow shapes*: all takes four times as long, so that shapes go one or two pixels a step. *Same "
        "share*: the temporal threshold at which the step before drops as much as the last token kept.",
    ),
    "neighbors": (
        "Neighbours in the grid, or survivors of the temporal stage",
        "*Survivors' share*: the spatial threshold at which the grid drops as much as survivors do.",
    ),
    "keyframes": (
        "Keyframes, at the same number of tokens",
        "Keyframes count against the number of tokens here, as they do not in `PruneConfig`.",
    ),
}
