"""`python3 -m benchmarks.accuracy.report`: the tables in this folder's README.md and in the model card, from the rows.

Of `full.csv` in the folder of results, where it is there, else of `quick.csv`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from streamprune_triton.shapes import model as small
from streamprune_triton.shapes import questions

from ..generated import settle
from . import rows
from .__main__ import DROPPED, RESULTS
from .methods import METHODS
from .rows import ALL, Row

README = Path(__file__).resolve().parent / "README.md"
CARD = small.WEIGHTS.parent / "README.md"
Column = tuple[str, float | None]  # method, share dropped
BASELINES = ("last step", "blind", "majority")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.accuracy.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSVs")
    parser.add_argument("--readme", type=Path, default=README, help="file with the markers")
    parser.add_argument("--card", type=Path, default=CARD, help="model card with the markers")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a table is another")
    options = parser.parse_args(argv)

    def tables() -> dict[Path, str]:
        found = load(options.results)
        return {options.readme: block(found), options.card: card(found)}

    return settle("accuracy.report", tables, dict, options.check)


def load(results: Path) -> list[Row]:
    """The rows of the longer run that is there. Raises OSError where there is none."""
    full = results / "full.csv"
    return rows.read(full if full.exists() else results / "quick.csv")


def block(found: list[Row]) -> str:
    """What stands between the markers of this folder's README: all questions, then a table by type for each share."""
    parts = [overall(found), *(by_type(found, share) for share in DROPPED), baselines(found), conditions(found[0])]
    return "\n" + "".join(part + "\n\n" for part in parts)


def card(found: list[Row]) -> str:
    """What stands between the markers of the model card."""
    columns: list[Column] = [("unpruned", 0.0), *(("ours", share) for share in DROPPED), ("majority", None)]
    heads = ["unpruned", *(f"{share:.0%} dropped" for share in DROPPED), "majority answer"]
    return f"\n{_by_kind(found, heads, columns)}\n\n{conditions(found[0])}\n\n"


def overall(found: list[Row]) -> str:
    """A line a method."""
    lines = [["all questions", *(f"{share:.0%} dropped" for share in DROPPED)]]
    lines += [[name, *(cell(found, name, share, ALL) for share in DROPPED)] for name in METHODS]
    whole = cell(found, "unpruned", 0.0, ALL)
    lines.append(["nothing dropped", *[whole for _ in DROPPED]])
    return _markdown(lines)


def by_type(found: list[Row], share: float) -> str:
    columns: list[Column] = [("unpruned", 0.0), *((name, share) for name in METHODS)]
    table = _by_kind(found, [name for name, _ in columns], columns)
    return f"By type, {share:.0%} dropped:\n\n{table}"


def baselines(found: list[Row]) -> str:
    columns: list[Column] = [(name, None) for name in BASELINES]
    return f"Without the clip's past, or without the clip:\n\n{_by_kind(found, list(BASELINES), columns)}"


def _by_kind(found: list[Row], heads: list[str], columns: list[Column]) -> str:
    asked = {row.kind: row.asked for row in found}
    lines = [["type", "questions", *heads]]
    for kind in (*questions.TYPES, ALL):
        if kind in asked:
            lines.append([kind, f"{asked[kind]:,}", *(cell(found, *column, kind) for column in columns)])
    return _markdown(lines)


def cell(found: list[Row], method: str, dropped: float | None, kind: str) -> str:
    """As in 93.1 (91.2 to 94.6): per cent, with Wilson's 95 % interval."""
    for row in found:
        if (row.method, row.dropped, row.kind) == (method, dropped, kind):
            low, high = row.score.interval
            return f"{100 * row.score.share:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    return ""


def conditions(row: Row) -> str:
    """What was counted where, as Markdown."""
    versions = f"Python {row.python}, PyTorch {row.torch}, transformers {row.transformers}"
    what = f"Per cent, with 95 % intervals; {row.clips:,} clips of {row.steps} steps; weights {row.weights}"
    return f"*{what}; {row.device}; {versions}; commit {row.commit or 'unknown'};* `{row.command}`"


def _markdown(lines: list[list[str]]) -> str:
    rule = ["---", *["--:"] * (len(lines[0]) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


if __name__ == "__main__":
    sys.exit(main())
