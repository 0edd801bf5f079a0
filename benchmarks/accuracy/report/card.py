"""What stands between the markers of the model card: the shipped weights, by type of question."""

from __future__ import annotations

from streamprune_triton.shapes import questions

from ..marks import ALL
from .markdown import conditions, percent, table
from .results import Results

COLUMNS = {
    "unpruned": ("0%", "unpruned"),
    "85% dropped": ("85%", "ours"),
    "92% dropped": ("92%", "ours"),
    "majority answer": ("0%", "majority"),
}


def card(found: Results, weights: str) -> str:
    """The table and its conditions. Raises ValueError where the run was not of these weights."""
    own = [row for row in found.rows if row.weights == weights and row.table == "ratios"]
    if not own:
        raise ValueError(f"the results must have rows of the table ratios for the shipped weights {weights}")
    return f"\n{by_type(Results(own), COLUMNS)}\n\n{conditions(own)}\n\n"


def by_type(found: Results, columns: dict[str, tuple[str, str]]) -> str:
    """A line for each type, a column for each (setting, method) of the table "ratios"."""
    lines = [["type", "questions", *columns]]
    for kind in (*questions.TYPES, ALL):
        shares = [found.share("ratios", *column, kind) for column in columns.values()]
        asked = {row.asked for column in columns.values() for row in found.cell("ratios", *column, kind)}
        if asked:
            lines.append([kind, f"{max(asked):,}", *map(percent, shares)])
    return table(lines)
