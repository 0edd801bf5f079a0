"""`python3 -m benchmarks.end_to_end.report`: the tables in this folder's README.md and the plot, from the rows."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from ..generated import settle
from ..report import COLORS
from . import rows
from .rows import Row
from .stages import STAGES

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "end_to_end"
FRAME = "a raw frame of a stream"
NO_GPU = "**Not run on a GPU yet**: every row above, if any, is from a CPU and a tiny model."
NAMED = 0.02  # of the time: smaller shares are left out of the sentence


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.end_to_end.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSVs")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="file with the markers")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the tables are others")
    options = parser.parse_args(argv)

    @cache
    def found() -> dict[str, list[Row]]:
        return {path.stem: rows.read(path) for path in sorted(options.results.glob("*.csv"))}

    def pictures() -> dict[Path, bytes]:
        stacked = {stem: measured for stem, measured in found().items() if panels(measured)}
        return {options.results / f"{stem}-breakdown.png": plot(measured) for stem, measured in stacked.items()}

    return settle("end_to_end.report", lambda: {options.readme: block(found())}, pictures, options.check)


def block(found: dict[str, list[Row]]) -> str:
    """What stands between the markers: for each file its tables, where the time goes, the conditions, the plot."""
    parts = []
    for stem, measured in found.items():
        for told, same in grouped(measured, conditions).items():
            parts += [table for table in (headline(same), clips(same)) if table]
            parts += [where(same), told]
        if panels(measured):
            parts.append(f"![Milliseconds by stage, stacked](../results/end_to_end/{stem}-breakdown.png)")
    if not any(row.model != "tiny Qwen2.5-VL" for measured in found.values() for row in measured):
        parts.append(NO_GPU)
    return "\n" + "".join(part + "\n\n" for part in parts)


def conditions(row: Row) -> str:
    """What ran where, as Markdown."""
    driver = f", driver {row.driver}" if row.driver else ""
    versions = f"Python {row.python}, PyTorch {row.torch}, Triton {row.triton}, transformers {row.transformers}"
    what = f"{row.model}, random weights, {row.dtype}; frames of {row.frame}, {row.kept} of {row.tokens} tokens a step"
    return f"*{what}; {row.device}{driver}; {versions}; commit {row.commit or 'unknown'};* `{row.command}`"


def headline(measured: list[Row]) -> str:
    """What a session does, a line for each quantity but the stages; the long stream against its first mark."""
    lines = [["session", "quantity", "p50", "p20 to p80", "raw frames seen"], ["---", "---", "--:", "--:", "--:"]]
    first: dict[tuple[str, str], Row] = {}
    for row in measured:
        if row.scenario == "clip" or row.quantity in STAGES:
            continue
        before = first.setdefault((row.scenario + row.provider, row.quantity), row)
        ratio = f" ({row.p50 / before.p50:.3g}x)" if before is not row else ""
        spread = f"{amount(row.p20, row.unit)} to {amount(row.p80, row.unit)}" if row.runs > 1 else ""
        name = f"{row.scenario}, {row.provider.removeprefix('ours, ')}"
        lines.append([name, row.quantity, amount(row.p50, row.unit) + ratio, spread, str(row.frames)])
    return _markdown(lines) if len(lines) > 2 else ""


def clips(measured: list[Row]) -> str:
    """A clip, a line for each provider; in brackets how many times faster than the unmodified model."""
    some = [row for row in measured if row.scenario == "clip"]
    quantities = ("time to first token", "whole answer")
    cells = {(row.provider, row.quantity): row for row in some}
    frames = {row.frames for row in some}
    lines = [[f"clip of {', '.join(map(str, sorted(frames)))} frames", *quantities], ["---", "--:", "--:"]]
    for provider in grouped(some, lambda row: row.provider):
        line = [_against(cells.get((provider, name)), cells.get(("unmodified", name))) for name in quantities]
        lines.append([provider, *line])
    return _markdown(lines) if some else ""


def _against(row: Row | None, base: Row | None) -> str:
    if row is None:
        return ""
    return amount(row.p50, "ms") + ("" if base is None or base is row else f" ({base.p50 / row.p50:.2f}x)")


def where(measured: list[Row]) -> str:
    """In a sentence for each bar of the plot, the stages in the order of their shares."""
    told = []
    for panel, bars in panels(measured).items():
        for name, stages in bars.items():
            total = sum(stages.values())
            shares = sorted(((part / total, stage) for stage, part in stages.items()), reverse=True)
            text = ", ".join(f"{stage} {share:.0%}" for share, stage in shares if share >= NAMED)
            told.append(f"- {name} ({panel}, {amount(total, 'ms')}): {text}")
    return "Where the time goes, stage by stage, each waited for:\n\n" + "\n".join(told) if told else ""


def panels(measured: list[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds by stage, by bar, by panel."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in measured:
        if row.quantity in STAGES:
            clip = row.scenario == "clip"
            panel = f"a clip of {row.frames} frames and its answer" if clip else FRAME
            bar = row.provider if clip else f"{row.scenario}, {row.provider.removeprefix('ours, ')}"
            found.setdefault(panel, {}).setdefault(bar, {})[row.quantity] = row.p50
    return found


def plot(measured: list[Row]) -> bytes:
    """A PNG of stacked bars, a panel for the frames of streams and one for the clip. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = panels(measured)
    figure = Figure(figsize=(9, 1.5 + 0.35 * sum(map(len, found.values()))), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    heights = [1 + len(bars) for bars in found.values()]
    grid = figure.subplots(len(found), 1, squeeze=False, height_ratios=heights).flatten()
    for axes, (panel, bars) in zip(grid, found.items(), strict=True):
        _draw(axes, bars)
        axes.set_title(panel, fontsize=9)
    handles = {name: h for axes in grid for h, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    ordered = {name: handles[name] for name in STAGES if name in handles}
    figure.legend(ordered.values(), ordered.keys(), loc="outside right center", frameon=False, fontsize=7)
    row = measured[0]
    figure.suptitle(f"{row.model}, random weights, {row.dtype}; {row.device}", fontsize=9)
    return _png(figure)


def _draw(axes: Any, bars: dict[str, dict[str, float]]) -> None:
    left = dict.fromkeys(bars, 0.0)
    for stage, color in zip(STAGES, (*COLORS, "#BBBBBB"), strict=True):
        widths = [stages.get(stage, 0.0) for stages in bars.values()]
        if any(widths):
            axes.barh(list(bars), widths, left=list(left.values()), color=color, label=stage)
        left = {name: at + width for (name, at), width in zip(left.items(), widths, strict=True)}
    for n, total in enumerate(left.values()):
        axes.annotate(f" {amount(total, 'ms')}", (total, n), va="center", fontsize=7)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)
    axes.set_xlabel("milliseconds", fontsize=8)


def amount(value: float, unit: str) -> str:
    """Three digits, of large numbers all, and the unit; milliseconds as seconds where they are many."""
    if unit == "ms" and value >= 999.5:
        value, unit = value / 1e3, "s"
    digits = f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}".rstrip(".")
    return f"{digits} {unit}"


def grouped(measured: list[Row], by: Callable[[Row], str]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in measured:
        groups.setdefault(by(row), []).append(row)
    return groups


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
