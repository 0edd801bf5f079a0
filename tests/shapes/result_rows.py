"""A row to vary."""

from __future__ import annotations

import dataclasses
from typing import Any

from benchmarks.accuracy.rows import Row


def a_row(**changes: Any) -> Row:
    """A row of the table "ratios"."""
    told = Row("ratios", "ours", "85%", 0.85, "all", 1, 2, None, 16, 16, 0, "abc", *[""] * 6)
    return dataclasses.replace(told, **changes)
