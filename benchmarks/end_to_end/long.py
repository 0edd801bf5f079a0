"""A stream that does not end: the memory it takes, and how soon a question is answered."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import torch

from . import checks, stages
from .bench import QUESTION, Bench, Values
from .rows import Row
from .streams import Feed

MIB = 1 << 20
STATM = Path("/proc/self/statm")  # Linux: pages, of which the second number is resident


def long_stream(bench: Bench, mode: str) -> Iterator[Row]:
    """Looked at after each of `Sizes.marks` raw frames, and where the time is over, if that is before the last."""
    memory, steps = bench.memory(mode), bench.sizes.call // bench.adapter.frames_per_step
    error = checks.error(bench, f"long stream, {mode}", lambda: checks.streaming(bench, memory, 2 * steps, steps))
    if error is None:
        return
    feed = Feed(bench, memory, 1)
    for mark in bench.sizes.marks:
        while feed.seen < mark and not (feed.seen and bench.spent()):
            feed.read(min(steps, (mark - feed.seen) // feed.size))
        if not checks.holds(bench, f"long stream, {feed.seen} frames", feed.check):
            return
        yield from bench.rows("long stream", f"ours, {mode}", feed.seen, error, _looked_at(bench, feed))
        if bench.spent():
            bench.say(f"out of time after {feed.seen} frames of {bench.sizes.marks[-1]}")
            return


def _looked_at(bench: Bench, feed: Feed) -> Values:
    (session,) = feed.sessions
    times = []
    for n in range(bench.sizes.runs + 1):
        stages.wait(bench.device)
        start = perf_counter()
        session.ask(QUESTION, **checks.ONE)
        if n:  # the first one warms up
            times.append(1e3 * (perf_counter() - start))
    values: Values = {"time to first token": ("ms", times)}
    used = resident(bench.device)
    if used is None or session.stats.carriers < bench.sizes.carriers:  # a memory that still fills is no leak
        return values
    return values | {"memory": ("MiB", [used / MIB])}


def resident(device: torch.device) -> int | None:
    """Bytes allocated on a GPU; the process's own elsewhere, None where the system does not say."""
    gc.collect()
    if device.type == "cuda":
        stages.wait(device)
        return torch.cuda.memory_allocated(device)
    import resource

    return int(STATM.read_text().split()[1]) * resource.getpagesize() if STATM.exists() else None
