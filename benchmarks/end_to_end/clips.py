"""A clip and a question about it, from raw frames to the answer: the unmodified model, ours, and peers' masks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from time import perf_counter

from . import checks, stages
from .answering import Provider, providers
from .bench import Bench, Values
from .rows import Row


def clip(bench: Bench) -> Iterator[Row]:
    """Every provider, checked first."""
    for provider in providers(bench):
        if bench.spent():
            bench.say(f"out of time before {provider.name}")
            return
        error = checks.error(bench, f"clip, {provider.name}", partial(provider.check, bench))
        if error is not None and checks.holds(bench, f"clip, {provider.name}", partial(provider.budget, bench)):
            values = _timed(bench, provider) | _apart(bench, provider)
            yield from bench.rows("clip", provider.name, bench.sizes.clip, error, values)


def _timed(bench: Bench, provider: Provider) -> Values:
    """Milliseconds from raw frames to the first token, and to the whole answer."""
    times: dict[int, list[float]] = {1: [], bench.sizes.answer: []}
    for count, found in times.items():
        for n in range(bench.sizes.runs + 1):
            stages.wait(bench.device)
            start = perf_counter()
            provider.run(bench, count, None)
            if n:  # the first one warms up
                found.append(1e3 * (perf_counter() - start))
            if bench.spent() and found:
                break
    return {"time to first token": ("ms", times[1]), "whole answer": ("ms", times[bench.sizes.answer])}


def _apart(bench: Bench, provider: Provider) -> Values:
    """Milliseconds by stage."""
    every = []
    for _ in range(max(2, bench.sizes.runs // 2)):
        watch = stages.Watch(bench.device)
        with watch("all"):
            provider.run(bench, bench.sizes.answer, watch)
        total = watch.spent.pop("all")
        every.append(watch.spent | {"rest": total - sum(watch.spent.values())})
    return {stage: ("ms", [1e3 * spent[stage] for spent in every]) for stage in stages.STAGES if stage in every[0]}
