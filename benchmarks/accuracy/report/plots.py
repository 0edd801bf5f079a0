"""Pictures of the results: the same rows give the same bytes. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np

from ...report import COLORS, MARKERS
from ..marks import ALL, SPATIAL
from .front import front, points
from .results import Results


def plots(found: Results) -> dict[str, bytes]:
    """PNGs by name, of the tables that were run."""
    drawings: dict[str, Callable[[Results], Any]] = {"ratios": ratios, "masks": masks, "thresholds": thresholds}
    return {name: _png(draw(found)) for name, draw in drawings.items() if name in found.tables}


def ratios(found: Results) -> Any:
    """Right answers over the share dropped, a line for each method, with intervals."""
    figure, (axes,) = _figure(1, (7.5, 4.6))
    settings = [each for each in found.settings("ratios") if each != "0%"]
    for n, method in enumerate(each for each in found.methods("ratios", settings[0]) if each != "unpruned"):
        shares = {s: share for s in settings if (share := found.share("ratios", s, method))}
        x = [settings.index(s) + 0.03 * (n - 4) for s in shares]  # side by side, so that intervals can be told apart
        y, half = ([100 * value(s) for s in shares.values()] for value in (attrgetter("value"), attrgetter("half")))
        color = "black" if n == 0 else COLORS[(n - 1) % len(COLORS)]
        style = {"color": color, "marker": MARKERS[n % len(MARKERS)], "linestyle": "-" if n < 8 else "--"}
        axes.errorbar(x, y, half, label=method, markersize=4, capsize=2, linewidth=1, **style)
    whole = found.share("ratios", "0%", "unpruned")
    if whole:
        axes.axhline(100 * whole.value, color="gray", linewidth=0.8, linestyle=":", label="nothing dropped")
    axes.set_xticks(range(len(settings)), settings)
    axes.set_xlabel("tokens dropped")
    axes.set_ylabel("right answers, %")
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure


def masks(found: Results) -> Any:
    """By how many points each mask is behind the first, all questions beside spatial ones."""
    settings = found.settings("masks")
    figure, panels = _figure(len(settings), (4.6 * len(settings), 4.0))
    for axes, setting in zip(panels, settings, strict=True):
        first, *others = found.methods("masks", setting)
        place = np.arange(len(others))
        for n, (kind, told) in enumerate(((ALL, "all questions"), (SPATIAL, "spatial questions"))):
            ahead = [found.ahead("masks", setting, method, kind) for method in others]
            values = [-100 * each.value if each else 0.0 for each in ahead]
            half = [100 * each.half if each else 0.0 for each in ahead]
            style = {"color": COLORS[n], "label": told, "error_kw": {"linewidth": 0.8, "capsize": 2}}
            axes.barh(place + 0.4 * n, values, 0.38, xerr=half, **style)
        axes.set_yticks(place + 0.2, others)
        axes.invert_yaxis()
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(f"{setting} dropped", fontsize=9)
        axes.set_xlabel(f"points against {first}")
    panels[-1].legend(frameon=False, fontsize=8)
    return figure


def thresholds(found: Results) -> Any:
    """A map of right answers by both thresholds, the front outlined; and all pairs over the share they drop."""
    figure, (left, right) = _figure(2, (11.5, 4.8))
    told, best = points(found), front(found)
    temporal, spatial = (sorted({name.split()[n] for name in told}) for n in (0, 1))
    grid = np.full((len(temporal), len(spatial)), np.nan)
    for name, (dropped, share) in told.items():
        row, column = (names.index(part) for names, part in zip((temporal, spatial), name.split(), strict=True))
        grid[row, column] = 100 * share
        weight = "bold" if name in best else "normal"
        text = f"{100 * share:.1f}\n({100 * dropped:.1f})"
        left.text(column, row, text, ha="center", va="center", fontsize=6.5, weight=weight)
        if name in best:
            edge = _rectangle((column - 0.5, row - 0.5))
            left.add_patch(edge)
    low, high = np.nanmin(grid), np.nanmax(grid)
    left.imshow(grid, cmap="YlGn", origin="lower", vmin=low, vmax=2 * high - low)  # light, so that text can be read
    left.set_xticks(range(len(spatial)), [each.split("=")[1] for each in spatial])
    left.set_yticks(range(len(temporal)), [each.split("=")[1] for each in temporal])
    left.set_xlabel("spatial threshold")
    left.set_ylabel("temporal threshold")
    left.set_title("right answers, % (dropped, %); outlined: Pareto front", fontsize=9)
    _scatter(right, found, [told[name] for name in best], list(told.values()))
    return figure


def _scatter(axes: Any, found: Results, best: list[tuple[float, float]], every: list[tuple[float, float]]) -> None:
    axes.plot(*(100 * np.array(every)).T, "o", color=COLORS[5], markersize=4, label="pairs of thresholds")
    axes.plot(*(100 * np.array(best)).T, "-", color="black", linewidth=1, label="Pareto front")
    for n, method in enumerate(found.methods("budgets")[1:]):
        shares = {s: found.share("budgets", s, method) for s in found.settings("budgets")}
        x = [100 * (found.dropped("budgets", s, method) or 0.0) for s in shares]
        y = [100 * each.value for each in shares.values() if each]
        axes.plot(x, y, f"--{MARKERS[n + 1]}", color=COLORS[n], linewidth=0.8, markersize=4, label=method)
    axes.set_xlabel("tokens dropped, %")
    axes.set_ylabel("right answers, %")
    axes.legend(frameon=False, fontsize=8)


def _rectangle(corner: tuple[float, float]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=1.5)


def _figure(panels: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = list(figure.subplots(1, panels, squeeze=False).flatten())
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, grid


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
