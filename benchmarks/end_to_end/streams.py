"""Frames as they come: one stream, several at once."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

import streamprune_triton as sp

from . import checks, stages
from .bench import Bench, Values
from .decoding import decode
from .rows import Row

GROUPS = 10  # a rate is taken over a tenth of the steps; nothing is waited for within
WARM = 8  # steps of a call while the memory is filled
PACKED = 4  # streams of the check, which are read whole: so many are read in one pass
UPKEEP = ("prune", "cache upkeep")  # what a session adds to a model


def streams(bench: Bench, mode: str, count: int) -> Iterator[Row]:
    """Frames a second of `count` streams with the memory full, a step of each in a call, and where the time goes."""
    memory, scenario = bench.memory(mode), "one stream" if count == 1 else f"{count} streams"
    error = checks.error(bench, f"{scenario}, {mode}", lambda: _error(bench, memory, count))
    if error is None:
        return
    feed = Feed(bench, memory, count)
    for _ in range(-(-bench.sizes.carriers // WARM)):
        feed.read(WARM)
    feed.rate(2)
    rates = [feed.rate(max(1, bench.sizes.steps // GROUPS)) for _ in range(GROUPS) if not bench.spent()]
    apart = [feed.apart() for _ in range(max(3, bench.sizes.steps // 4))]
    if not rates or not checks.holds(bench, f"{scenario}, {mode}", feed.check):
        return
    values: Values = {"frames a second": ("1/s", rates)} | breakdown(apart, feed.size * count)
    values |= decode(bench) if (mode, count) == ("carriers", 1) else {}
    yield from bench.rows(scenario, f"ours, {mode}", feed.seen, error, values)


def captured(bench: Bench, mode: str) -> Iterator[Row]:
    """Frames a second of one stream whose steps run in fixed shapes, as CUDA graphs on a GPU.

    By the rate alone: hooks that wait for the device would be part of what is captured, so there is no breakdown.
    """
    memory, name = bench.memory(mode), f"one stream, {mode}, graphs"
    error = checks.error(bench, name, lambda: checks.captured(bench, memory))
    if error is None:
        return
    feed = Feed(bench, memory, 1, graphs=True)
    for _ in range(-(-bench.sizes.carriers // WARM)):
        feed.read(WARM)
    feed.rate(2)
    rates = [feed.rate(max(1, bench.sizes.steps // GROUPS)) for _ in range(GROUPS) if not bench.spent()]
    if rates and checks.holds(bench, name, feed.check):
        values: Values = {"frames a second": ("1/s", rates)}
        yield from bench.rows("one stream", f"ours, {mode}, graphs", feed.seen, error, values)


def _error(bench: Bench, memory: sp.Memory, count: int) -> float:
    alone = checks.streaming(bench, memory)
    return alone if count == 1 else max(alone, checks.together(bench, memory, min(count, PACKED)))


class Feed:
    """Streams that are fed alike.

    Attributes:
        size: raw frames of a step.
        seen: raw frames of each stream so far.
    """

    def __init__(self, bench: Bench, memory: sp.Memory, count: int, graphs: bool = False) -> None:
        self._bench = bench
        self.sessions = [bench.session(memory, graphs=graphs) for _ in range(count)]
        self.size = int(bench.adapter.frames_per_step)
        self.seen = 0
        self._opening = self.sessions[0].stats.kv_tokens  # rows of text in front of each video
        self._results: list[sp.PruneResult | None] = []

    def read(self, steps: int = 1) -> None:
        """So many steps of each stream in a call; the streams are at different places of the film."""
        count = steps * self.size
        frames = [self._bench.frames(self.seen + self.size * n, count) for n in range(len(self.sessions))]
        self._results += sp.StreamingSession.append_many(self.sessions, frames)
        self.seen += count

    def rate(self, steps: int) -> float:
        """Raw frames a second of all streams together, a step in a call."""
        stages.wait(self._bench.device)
        start = perf_counter()
        for _ in range(steps):
            self.read()
        stages.wait(self._bench.device)
        return len(self.sessions) * steps * self.size / (perf_counter() - start)

    def apart(self) -> stages.Spent:
        """Seconds by stage of the next step."""
        return stages.of_append(self._bench.model, self.sessions, self.read)

    def check(self) -> None:
        """That the budget was kept in every step since the last check, and the bound in every cache."""
        for result in self._results:
            checks.budget(self._bench, result)
        self._results.clear()
        for session in self.sessions:
            checks.held(self._bench, session, self._opening)


def breakdown(apart: list[stages.Spent], frames: int) -> Values:
    """Milliseconds of a frame by stage, and the share of what a session adds to the model, of calls of `frames`."""
    values: Values = {
        stage: ("ms", [1e3 * spent[stage] / frames for spent in apart]) for stage in stages.STAGES if stage in apart[0]
    }
    shares = [100 * sum(spent[stage] for stage in UPKEEP) / sum(spent.values()) for spent in apart]
    return values | {"pruning and upkeep": ("%", shares)}
