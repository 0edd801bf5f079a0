"""Cells and tables in Markdown."""

from __future__ import annotations

from ..rows import Row
from .statistics import Interval


def percent(interval: Interval | None) -> str:
    """As in 93.1 ± 0.4: per cent, and half the 95 % interval."""
    return "" if interval is None else f"{100 * interval.value:.1f} ± {100 * interval.half:.1f}"


def points(interval: Interval | None) -> str:
    """As in **+3.1 ± 0.4**: percentage points, bold where the interval does not reach zero."""
    if interval is None:
        return ""
    told = f"{100 * interval.value:+.1f} ± {100 * interval.half:.1f}"
    return f"**{told}**" if interval.excludes_zero else told


def plain(value: float | None) -> str:
    """A share in per cent."""
    return "" if value is None else f"{100 * value:.1f}"


def table(lines: list[list[str]], names: int = 1) -> str:
    """Of a head and lines; so many columns are names, which begin on the left."""
    rule = [*["---"] * names, *["--:"] * (len(lines[0]) - names)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def folded(title: str, text: str) -> str:
    """What opens when it is clicked on."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def conditions(rows: list[Row]) -> str:
    """What was counted where, a paragraph for each run."""
    runs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        runs.setdefault((row.command, row.commit), []).append(row)
    return "\n\n".join(_run(each, len(runs) > 1) for each in runs.values())


def _run(rows: list[Row], named: bool) -> str:
    row = rows[0]
    tables = f"{', '.join(dict.fromkeys(each.table for each in rows))}: " if named else ""
    weights, steps = (list(dict.fromkeys(getattr(each, name) for each in rows)) for name in ("weights", "steps"))
    count = len({each.seed for each in rows})
    seeds = f"{count} training seed{'s' if count > 1 else ''} (weights {', '.join(weights)})"
    versions = f"Python {row.python}, PyTorch {row.torch}, transformers {row.transformers}"
    told = f"{tables}{row.clips:,} clips of {', '.join(map(str, steps))} steps; {seeds}"
    return f"*{told}; {row.device}; {versions}; commit {row.commit or 'unknown'};* `{row.command}`"
