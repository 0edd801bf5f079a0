"""A clip and a question about it, from raw frames to the answer: the unmodified model, ours, and peers' masks.

And the question alone, of a session that has read the clip's frames as they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter

from . import checks, stages
from .answering import Provider, answer, providers
from .bench import QUESTION, Bench, Values
from .rows import Row


def clip(bench: Bench) -> Iterator[Row]:
    """Every provider, checked first, then `question`."""
    for provider in providers(bench):
        if bench.spent():
            bench.say(f"out of time before {provider.name}")
            return
        error = checks.error(bench, f"clip, {provider.name}", partial(provider.check, bench))
        if error is not None and checks.holds(bench, f"clip, {provider.name}", partial(provider.budget, bench)):
            values = _timed(bench, partial(_run, bench, provider)) | _apart(bench, provider)
            yield from bench.rows("clip", provider.name, bench.sizes.clip, error, values)
    for mode, graphs in (("tokens", False), ("carriers", False), ("carriers", True)):
        if not bench.spent():
            yield from question(bench, mode, graphs)


def question(bench: Bench, mode: str, graphs: bool = False) -> Iterator[Row]:
    """A session's answer about the same clip, whose frames it has read as they came, a step in a call."""
    memory, name = bench.memory(mode), f"ours, {mode}, streamed" + (", graphs" if graphs else "")
    size = bench.adapter.frames_per_step
    steps = bench.sizes.clip // size
    check = checks.captured if graphs else checks.streaming
    error = checks.error(bench, f"clip, {name}", lambda: check(bench, memory, steps))
    if error is None:
        return
    session = bench.session(memory, graphs=graphs)
    for n in range(steps):
        session.append(bench.frames(n * size, size))
    values = _timed(bench, lambda count: session.ask(QUESTION, **answer(bench, count)))
    yield from bench.rows("clip", name, bench.sizes.clip, error, values)


def _run(bench: Bench, provider: Provider, count: int) -> None:
    provider.run(bench, count, None)


def _timed(bench: Bench, run: Callable[[int], object]) -> Values:
    """Milliseconds to the first token, and to the whole answer, of `run` for so many tokens."""
    times: dict[int, list[float]] = {1: [], bench.sizes.answer: []}
    for count, found in times.items():
        for n in range(bench.sizes.runs + 1):
            stages.wait(bench.device)
            start = perf_counter()
            run(count)
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
