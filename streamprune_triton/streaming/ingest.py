"""Frames of one or several streams into their caches: pixels, features, pruning, reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ..attribution import BY_SPACE, BY_TIME, KEPT
from ..config import PruneConfig
from ..models.base import Features
from ..pruner import prune
from ..result import PruneResult
from .past import Past
from .reader import Reader
from .stats import timed
from .steps import Pruned, plan

Seconds = dict[str, float]


def ingest(
    readers: Sequence[Reader],
    pasts: Sequence[Past],
    frames: Sequence[np.ndarray],
    config: PruneConfig,
    seconds: Seconds,
    missing: int = 0,
) -> list[tuple[Past, Pruned | None]]:
    """Each stream's past with its new frames in it, and what became of the steps that they complete.

    Args:
        readers: one a stream, of one model and one kind of memory.
        pasts: one a stream.
        frames: (N, height, width, 3) uint8 of each.
        config: what to drop, of all streams.
        seconds: wall time by stage, added to.
        missing: so many of the last frames are repetitions that fill a step.
    """
    size = readers[0].adapter.frames_per_step
    every = [
        new if past.waiting is None else np.concatenate([past.waiting, new])
        for past, new in zip(pasts, frames, strict=True)
    ]
    counts = [len(each) // size for each in every]
    waiting = [
        replace(past, waiting=each[count * size :].copy() if len(each) else past.waiting)
        for past, each, count in zip(pasts, every, counts, strict=True)
    ]
    busy = [n for n, count in enumerate(counts) if count]
    done: list[tuple[Past, Pruned | None]] = [(past, None) for past in waiting]
    if busy:
        ready = [every[n][: counts[n] * size] for n in busy]
        advanced = _advance([readers[n] for n in busy], [waiting[n] for n in busy], ready, config, seconds, missing)
        for n, result in zip(busy, advanced, strict=True):
            done[n] = result
    return done


def _advance(
    readers: list[Reader],
    pasts: list[Past],
    frames: list[np.ndarray],
    config: PruneConfig,
    seconds: Seconds,
    missing: int,
) -> list[tuple[Past, Pruned | None]]:
    adapter, memory = readers[0].adapter, readers[0].memory
    with timed(seconds, "preprocess"):
        pixels = [adapter.pixels(each) for each in frames]
    with timed(seconds, "vision"):
        features = readers[0].features(pixels)
        for reader, past, seen in zip(readers, pasts, features, strict=True):
            check_bound(reader, config, seen.x, past.steps)
    with timed(seconds, "prune"):
        pruners = [past.pruner.clone() for past in pasts]
        results = _pruned(features, [pruner.state for pruner in pruners], config)
        for pruner, result in zip(pruners, results, strict=True):
            pruner.state = result.state
        pruned = Pruned.of(results, features, config, memory.carriers)
    with timed(seconds, "prefill"):
        opened = [reader.open(past) for reader, past in zip(readers, pasts, strict=True)]
        for reader, past, each in zip(readers, opened, pruned, strict=True):
            if past.grid is None:
                reader.reserve(past, each.fate[0].size)
        read = _read(readers, opened, pruned, config, missing)
    return [(replace(past, pruner=pruner), each) for past, pruner, each in zip(read, pruners, pruned, strict=True)]


def _read(
    readers: list[Reader], pasts: list[Past], pruned: list[Pruned], config: PruneConfig, missing: int
) -> list[Past]:
    """The steps of all streams in one forward, or, where positions are to be closed up on the way, in parts."""
    triples = list(zip(readers, pasts, pruned, strict=True))
    if any(_next(reader, past, each, 0) < len(each.fate) for reader, past, each in triples):
        return [_in_parts(*triple, config, missing) for triple in triples]
    plans = [
        plan(past, each, reader.adapter, reader.layout(_grid(each)), reader.fps, config, missing)
        for reader, past, each in triples
    ]
    return readers[0].read_many(pasts, plans)


def _in_parts(reader: Reader, past: Past, pruned: Pruned, config: PruneConfig, missing: int) -> Past:
    """Each part up to a step behind which positions are closed up."""
    first, layout = 0, reader.layout(_grid(pruned))
    while first < len(pruned.fate):
        last = _next(reader, past, pruned, first)
        past = reader.read_steps(
            past, plan(past, pruned, reader.adapter, layout, reader.fps, config, missing, first, last)
        )
        first = last
    return past


def _next(reader: Reader, past: Past, pruned: Pruned, first: int) -> int:
    """Behind which step positions are to be closed up, if not behind the last."""
    left = len(pruned.fate) - first
    if reader.closing is None:
        return first + left
    return first + reader.closing.steps(past, reader.layout(_grid(pruned)), left)


def _grid(pruned: Pruned) -> tuple[int, int]:
    return pruned.fate.shape[1], pruned.fate.shape[2]


def _pruned(features: list[Features], states: list, config: PruneConfig) -> list[PruneResult]:
    """One stream or many, in the same launches."""
    if len(features) == 1:
        return [prune(features[0].x, config, state=states[0])]
    return prune([each.x for each in features], config, state=states)


def counts(pruned: Pruned) -> dict[str, int]:
    """What the statistics count of some steps."""
    fate = np.bincount(pruned.fate.ravel(), minlength=4)
    return {
        "steps": len(pruned.fate),
        "tokens_in": pruned.fate.size,
        "tokens_kept": int(fate[KEPT]),
        "dropped_temporal": int(fate[BY_TIME]),
        "dropped_spatial": int(fate[BY_SPACE]),
        "nonfinite": int(fate[3]),
    }


def check_bound(reader: Reader, config: PruneConfig, x: torch.Tensor, step: int = 0) -> None:
    """Raises ValueError where one of the steps x (T, H, W, D), from number `step` on, may exceed the bound alone."""
    memory, area = reader.memory, x.shape[1] * x.shape[2]
    if memory.max_tokens is None or memory.mode == "carriers" or not len(x):
        return
    budget = config.max_tokens if config.keep_tokens is None else config.keep_tokens
    most = area if budget is None or config.keyframe_interval or config.scope == "clip" else min(budget, area)
    if memory.mode == "tokens":  # the text grows with the time that it tells
        most += sum(len(text) for text in reader.adapter.around(step + len(x) - 1, reader.fps))
    if memory.max_tokens < most:
        raise ValueError(f"memory.max_tokens must be at least {most}, the tokens of one step, got {memory.max_tokens}")
