"""The experiments, by name: each asks an exam's questions and yields a `Cell` for each method and setting.

In a setting all methods answer the same questions; the first that a table yields for it is the reference that the
others are compared with.
"""

from __future__ import annotations

from ..cell import Table
from .content import content
from .keyframes import keyframes
from .masks import masks
from .neighbors import neighbors
from .ratios import ratios
from .reference import reference
from .thresholds import budgets, thresholds

TABLES: dict[str, Table] = {
    "ratios": ratios,
    "masks": masks,
    "content": content,
    "thresholds": thresholds,
    "budgets": budgets,
    "reference": reference,
    "neighbors": neighbors,
    "keyframes": keyframes,
}
QUICK = ("ratios", "masks", "thresholds")
