"""`python3 -m benchmarks.accuracy.carriers.report`: the tables in this folder's README.md, from the rows."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from streamprune_triton.shapes import questions

from ...generated import settle
from .. import rows
from ..__main__ import RESULTS
from ..marks import ALL
from ..report.markdown import conditions, folded, percent, plain, table
from ..report.results import Results

README = Path(__file__).resolve().parent / "README.md"
BY_TYPE = "10% of the rows"  # settings of the table "hybrid"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.accuracy.carriers.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS / "carriers.csv", help="the rows")
    parser.add_argument("--readme", type=Path, default=README, help="file with the markers")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a table is another")
    options = parser.parse_args(argv)
    return settle(
        "carriers.report", lambda: {options.readme: block(Results(rows.read(options.results)))}, dict, options.check
    )


def block(found: Results) -> str:
    """What stands between the markers."""
    parts = {"carriers": _carriers, "memory": _by_setting, "hybrid": _hybrid}
    tables = [make(found, name) for name, make in parts.items() if name in found.tables]
    return "\n" + "\n\n".join([*tables, conditions(found.rows)]) + "\n\n"


def _carriers(found: Results, name: str) -> str:
    """A line for each way to remember, a column for each stage of training; by type for the last stage."""
    stages = found.settings(name)
    lines = [["right answers, %", "rows kept, %", *stages]]
    for method in found.methods(name)[1:]:
        shares = [percent(found.share(name, stage, method)) for stage in stages]
        lines.append([method, _kept(found, name, stages[-1], method), *shares])
    types = _types(found, name, stages[-1])
    return f"{table(lines)}\n\n{folded(f'By type, {stages[-1]}', types)}"


def _by_setting(found: Results, name: str) -> str:
    """A line for each setting, a column for each method."""
    methods = found.methods(name)
    lines = [["right answers, %", *methods]]
    for setting in found.settings(name):
        lines.append([setting, *(percent(found.share(name, setting, method)) for method in methods)])
    return table(lines)


def _hybrid(found: Results, name: str) -> str:
    """As `_by_setting`, with the rows that were really kept; by type where a tenth is kept."""
    methods = found.methods(name)
    lines = [["right answers, % (rows kept, %)", *methods]]
    for setting in found.settings(name):
        cells = [f"{percent(found.share(name, setting, m))} ({_kept(found, name, setting, m)})" for m in methods]
        lines.append([setting, *cells])
    chosen = [setting for setting in found.settings(name) if setting.startswith(BY_TYPE)]
    types = [folded(f"By type, {setting}", _types(found, name, setting)) for setting in chosen]
    return "\n\n".join([table(lines), *types])


def _types(found: Results, name: str, setting: str) -> str:
    """A line for each type of question, a column for each method."""
    methods = found.methods(name, setting)
    lines = [["type", *methods]]
    for kind in (*questions.TYPES, ALL):
        lines.append([kind, *(percent(found.share(name, setting, method, kind)) for method in methods)])
    return table(lines)


def _kept(found: Results, name: str, setting: str, method: str) -> str:
    dropped = found.dropped(name, setting, method)
    return plain(None if dropped is None else 1 - dropped)


if __name__ == "__main__":
    sys.exit(main())
