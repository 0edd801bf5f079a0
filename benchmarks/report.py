"""`python3 -m benchmarks.report`: the table in README.md and the plots, from the rows in `results/` alone."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from . import rows
from .cases import GRIDS, Case
from .generated import settle
from .rows import CHECKOUT, Row

NO_GPU = "**No GPU figure has been measured yet**: every row above, if any, is from a CPU."
MODEL = "model"  # the file whose rows nobody measured: see model.py
COLUMNS = 5  # cases beside each other in one table
PANELS = 6  # cases in the plot of bars
# Okabe and Ito's colours, told apart by all kinds of colour vision; black is ours
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#A09000")
MARKERS = "osD^vP*Xp<>hd"
Key = tuple[str, str, float, bool]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=CHECKOUT / "benchmarks" / "results", help="folder of the CSVs")
    parser.add_argument("--readme", type=Path, default=CHECKOUT / "README.md", help="file with the markers")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the table is another")
    options = parser.parse_args(argv)

    @cache
    def found() -> dict[str, list[Row]]:
        return {path.stem: rows.read(path) for path in sorted(options.results.glob("*.csv")) if path.stem != MODEL}

    def pictures() -> dict[Path, bytes]:
        each = ((stem, name, picture) for stem, kept in found().items() for name, picture in plots(kept).items())
        return {options.results / f"{stem}-{name}.png": picture for stem, name, picture in each}

    return settle("report", lambda: {options.readme: block(found())}, pictures, options.check)


def block(found: dict[str, list[Row]]) -> str:
    """What stands between the markers: tables for each file, mode and machine, their conditions, and the plots."""
    parts = []
    for stem, measured in found.items():
        for told, same in _grouped(measured, lambda row: (kind(row), conditions(row))).items():
            parts += tables(told[0], same)
            parts.append(f"{told[1]}. Copy bandwidth of the run: {same[0].roof_gbps:.0f} GB/s.")
        links = ", ".join(f"[{name}](benchmarks/results/{stem}-{name}.png)" for name in drawings(measured))
        if links:
            parts.append(f"Plots of these rows: {links}.")
    if not any(on_gpu(row) for measured in found.values() for row in measured):
        parts.append(NO_GPU)
    return "\n" + "".join(part + "\n\n" for part in parts)


def conditions(row: Row) -> str:
    """Where and how a row was measured, as Markdown."""
    driver = f", driver {row.driver}" if on_gpu(row) else ""
    triton = f", Triton {row.triton}" if row.triton else ""
    versions = f"Python {row.python}, PyTorch {row.torch}{triton}"
    return f"*{row.device}{driver}; {versions}; commit {row.commit or 'unknown'};* `{row.command}`"


def tables(mode: str, measured: list[Row]) -> list[str]:
    """Markdown tables, a line for each provider, a column for each case; all after the first are folded away."""
    cases = list(_grouped(measured, key))
    chunks = [cases[n : n + COLUMNS] for n in range(0, len(cases), COLUMNS)]
    first, *rest = [_table(mode, chunk, measured) for chunk in chunks]
    folded = f"<details><summary>{len(cases) - COLUMNS} more cases</summary>\n\n" + "\n\n".join(rest) + "\n\n</details>"
    return [first, *([folded] * bool(rest))]


def _table(mode: str, cases: list[Key], measured: list[Row]) -> str:
    cells = {(row.provider, key(row)): row for row in measured}
    baselines = {key(row): row.p50_us for row in measured if baseline(row)}
    lines = [[f"p50 of a {mode}", *map(title, cases)], ["---", *["--:"] * len(cases)]]
    for provider in _grouped(measured, lambda row: row.provider):
        line = [_cell(cells.get((provider, case)), baselines.get(case)) for case in cases]
        if any(line):
            lines.append([provider, *line])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(row: Row | None, ours: float | None) -> str:
    if row is None:
        return ""
    return duration(row.p50_us) + ("" if ours is None or baseline(row) else f" ({row.p50_us / ours:.2f}x)")


def duration(microseconds: float) -> str:
    """Three digits and a unit."""
    value, unit = (microseconds, "us") if microseconds < 999.5 else (microseconds / 1e3, "ms")
    return f"{value:#.3g}".rstrip(".") + f" {unit}"


def kind(row: Row) -> str:
    """Rows of the same kind are compared: a call of `prune_padded` is a call, too."""
    return "graph replay" if row.mode == "kernel" else "call"


def baseline(row: Row) -> bool:
    """Whether the others of its kind and case are divided by it."""
    return row.provider.startswith("ours, padded (" if row.mode == "kernel" else "ours (")


def on_gpu(row: Row) -> bool:
    return bool(row.driver)


def key(row: Row) -> Key:
    return row.case, row.dtype, row.drop, row.state


def title(case: Key) -> str:
    """A case in words; what every row has by default is left out."""
    name, dtype, drop, state = case
    return f"{name} {dtype}" + ("" if drop == Case.drop else f", {drop:.0%} repeat") + ("" if state else ", no state")


def shape(row: Row) -> tuple[int, int, int, int, int]:
    """(streams, T, H, W, D) from the case's name."""
    *streams, sizes = row.case.split(" of ")
    t, h, w, d = map(int, sizes.split("x"))
    return int(streams[0].split()[0]) if streams else 1, t, h, w, d


def _grouped(measured: Iterable[Row], by: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    """The rows by what `by` says of them, in order of appearance."""
    groups: dict[Any, list[Row]] = {}
    for row in measured:
        groups.setdefault(by(row), []).append(row)
    return groups


def plots(measured: list[Row]) -> dict[str, bytes]:
    """PNGs by name. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    styles = _styles(measured)
    pictures = {}
    for name, (panels, draw) in drawings(measured).items():
        across = min(3, len(panels))
        down = -(-len(panels) // across)
        figure = Figure(figsize=(1.5 + 4.5 * across, 1 + 3.6 * down), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(down, across, squeeze=False).flatten()
        for axes, (told, some) in zip(grid, panels.items(), strict=False):
            axes.set_title(told, fontsize=9)
            axes.spines[["top", "right"]].set_visible(False)
            draw(axes, some, styles)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        if draw is not _draw_bars:
            _legend(figure, grid)
        figure.suptitle(conditions(measured[0]).split(";")[0].strip("*"), fontsize=9)
        pictures[name] = _png(figure)
    return pictures


def drawings(measured: list[Row]) -> dict[str, tuple[dict[str, list[Row]], Callable[..., None]]]:
    """What there are rows for: name -> (rows by the title of their panel, the function that draws a panel)."""
    wanted = {
        "resolution": (_over_resolution(measured), _draw_resolution),
        "drop": (_over_drop(measured), _draw_drop),
        "peers": (_against_peers(measured), _draw_bars),
        "roof": (_grouped(measured, lambda row: f"{kind(row)}, share of the copy bandwidth"), _draw_roof),
    }
    return {name: drawing for name, drawing in wanted.items() if drawing[0]}


def _over_resolution(measured: list[Row]) -> dict[str, list[Row]]:
    """Panels of one stream at a fixed T, D, dtype and ratio that were timed at 448 x 448 and another grid."""

    def panel(row: Row) -> str:
        _, t, _, _, d = shape(row)
        frames = "1 frame" if t == 1 else f"{t} frames"
        return title((f"{kind(row)}: {frames}, D = {d},", row.dtype, row.drop, row.state))

    groups = _grouped([row for row in measured if shape(row)[0] == 1 and shape(row)[2:4] in GRIDS], panel)
    grids = {told: {shape(row)[2:4] for row in some} for told, some in groups.items()}
    return {told: some for told, some in groups.items() if (16, 16) in grids[told] and len(grids[told]) > 1}


def _over_drop(measured: list[Row]) -> dict[str, list[Row]]:
    groups = _grouped(measured, lambda row: f"{kind(row)}: {row.case} {row.dtype}{'' if row.state else ', no state'}")
    return {told: some for told, some in groups.items() if len({row.drop for row in some}) > 1}


def _against_peers(measured: list[Row]) -> dict[str, list[Row]]:
    """The first cases, as calls, in which ours and another were timed."""
    groups = _grouped([row for row in measured if kind(row) == "call"], lambda row: title(key(row)))
    full = {t: some for t, some in groups.items() if any(map(baseline, some)) and not all(map(_is_ours, some))}
    return dict(list(full.items())[:PANELS])


def _is_ours(row: Row) -> bool:
    return row.provider.startswith("ours")


def _styles(measured: list[Row]) -> dict[str, dict[str, Any]]:
    """A colour and marker for each provider, the same in every panel; ours are black."""
    styles: dict[str, dict[str, Any]] = {}
    for row in measured:
        n = len(styles)
        color = "black" if _is_ours(row) else COLORS[n % len(COLORS)]
        line = ("-", "--", ":")[n % 3] if _is_ours(row) else ("-", "--")[n // len(COLORS) % 2]
        styles.setdefault(row.provider, {"color": color, "marker": MARKERS[n % len(MARKERS)], "linestyle": line})
    return styles


def _draw_lines(axes: Any, some: list[Row], styles: dict, at: Callable[[Row], float]) -> None:
    for provider, series in _grouped(some, lambda row: row.provider).items():
        series.sort(key=at)
        axes.plot([at(r) for r in series], [r.p50_us for r in series], label=provider, markersize=4, **styles[provider])
    _logarithmic(axes.set_yscale, axes.yaxis)
    axes.set_ylabel("p50, microseconds")


def _draw_resolution(axes: Any, some: list[Row], styles: dict) -> None:
    from matplotlib.ticker import NullLocator

    _draw_lines(axes, some, styles, lambda row: shape(row)[2] * shape(row)[3])
    grids = sorted({shape(row)[2:4] for row in some})
    axes.set_xscale("log")
    axes.set_xticks([h * w for h, w in grids], [GRIDS[grid] for grid in grids], rotation=45)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("frame")


def _draw_drop(axes: Any, some: list[Row], styles: dict) -> None:
    _draw_lines(axes, some, styles, lambda row: 100 * row.drop)
    axes.set_xlabel("tokens that repeat, %")


def _draw_bars(axes: Any, some: list[Row], styles: dict) -> None:
    del styles  # a bar carries its name; all that counts is which are ours
    ours = next(row.p50_us for row in some if baseline(row))
    ordered = sorted(some, key=lambda row: -row.p50_us)
    colors = ["black" if _is_ours(row) else COLORS[5] for row in ordered]
    # a bar begins at ours, as the scale has no zero: its length is the ratio, its side says who is faster
    lengths = [row.p50_us / ours - 1 for row in ordered]
    bars = axes.barh([r.provider for r in ordered], lengths, left=1, color=colors, edgecolor=colors, linewidth=2)
    axes.bar_label(bars, [f" {duration(row.p50_us)} " for row in ordered], fontsize=7)
    _logarithmic(axes.set_xscale, axes.xaxis)
    axes.margins(x=0.3)
    axes.axvline(1, color="gray", linewidth=0.8)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("times ours; left of the line is faster")


def _draw_roof(axes: Any, some: list[Row], styles: dict) -> None:
    for provider, series in _grouped(some, lambda row: row.provider).items():
        style = styles[provider] | {"linestyle": ""}
        axes.plot(
            [r.model_bytes / 1e6 for r in series],
            [100 * r.share for r in series],
            label=provider,
            markersize=5,
            **style,
        )
    axes.axhline(100, color="gray", linewidth=0.8)
    _logarithmic(axes.set_xscale, axes.xaxis)
    _logarithmic(axes.set_yscale, axes.yaxis)
    axes.set_xlabel("bytes that must be moved, MB")
    axes.set_ylabel("%")


def _logarithmic(set_scale: Callable[[str], None], axis: Any) -> None:
    """A logarithmic scale with plain numbers."""
    from matplotlib.ticker import LogFormatter

    set_scale("log")
    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    axis.set_tick_params(which="both", labelsize=7)


def _legend(figure: Any, grid: Iterable[Any]) -> None:
    handles = {name: h for axes in grid for h, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=7)


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
