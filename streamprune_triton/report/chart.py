"""The shares of kept and dropped tokens over time. Needs matplotlib."""

from __future__ import annotations

import io

import numpy as np

from ..attribution import BY_SPACE, BY_TIME, KEPT
from .collect import Collector
from .pictures import COLORS

MOST_STEPS = 600  # bars in the chart; more are averaged


def shares(collector: Collector) -> tuple[np.ndarray, np.ndarray]:
    """(times (N,), shares (3, N) of dropped by time, dropped by space and kept), 1 <= N <= MOST_STEPS.

    More steps are averaged in runs; none give one share of 0.
    """
    counts = np.array([collector.by_time, collector.by_space, collector.kept], dtype=np.float64)
    times = np.array(collector.seconds)
    bins = max(1, -(-len(times) // MOST_STEPS))
    starts = np.arange(0, len(times), bins)
    if not len(times):
        return np.zeros(1), np.zeros((3, 1))
    totals = np.add.reduceat(counts, starts, axis=1)
    return times[starts], totals / np.maximum(totals.sum(0), 1)


def chart(collector: Collector) -> bytes:
    """A PNG: the shares of every step, stacked to one, over the time since the step before."""
    from matplotlib.figure import Figure

    times, (by_time, by_space, kept) = shares(collector)
    figure = Figure(figsize=(10, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    start = 0.0 if len(times) and times[0] > 0 else -1.0  # a step at 0 s is shown, too
    edges = np.concatenate([[start], times])
    base = np.zeros_like(by_time)
    for part, code, name in (
        (kept, KEPT, "kept"),
        (by_space, BY_SPACE, "dropped by space"),
        (by_time, BY_TIME, "dropped by time"),
    ):
        color = tuple(channel / 255 for channel in COLORS[code])
        axes.stairs(base + part, edges, baseline=base, fill=True, color=color, label=name, linewidth=0)
        base = base + part
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.set_xlabel("seconds")
    axes.set_ylabel("share of the tokens")
    axes.margins(x=0)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False, reverse=True)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
