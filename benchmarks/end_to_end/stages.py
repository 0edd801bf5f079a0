"""Seconds by stage, with the device waited for in between: for the breakdown, never for a rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch

import streamprune_triton as sp

STAGES = ("decode", "preprocess", "vision", "prune", "prefill", "cache upkeep", "answer", "rest")
Spent = dict[str, float]  # seconds by stage


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Watch:
    """Adds up the seconds of what runs under a name; the device is waited for before and behind it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.spent: Spent = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            self.spent[stage] = self.spent.get(stage, 0.0) + self._now() - start

    def _now(self) -> float:
        wait(self._device)
        return perf_counter()


class Parts:
    """When a model's tower and its decoder run, by hooks on the two; the device is waited for before and behind."""

    def __init__(self, model: Any) -> None:
        self._modules = {"vision": model.model.visual, "decoder": model.model.language_model}
        self._device = model.device
        self.calls: dict[str, list[tuple[float, float]]] = {}

    @contextmanager
    def watched(self) -> Iterator[Parts]:
        """Inside, (begin, end) of every call is noted."""
        self.calls = {name: [] for name in self._modules}
        handles = []
        for name, module in self._modules.items():
            handles.append(module.register_forward_pre_hook(self._begin))
            handles.append(module.register_forward_hook(self._end(self.calls[name])))
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def seconds(self, name: str) -> float:
        """Of all calls of a part."""
        return sum(end - begin for begin, end in self.calls[name])

    def _begin(self, *_: Any) -> None:
        wait(self._device)
        self._start = perf_counter()

    def _end(self, calls: list[tuple[float, float]]) -> Callable[..., None]:
        def end(*_: Any) -> None:
            wait(self._device)
            calls.append((self._start, perf_counter()))

        return end


def of_append(model: Any, sessions: Sequence[sp.StreamingSession], append: Callable[[], object]) -> Spent:
    """What a call of `append` or `append_many` spends by stage.

    Prefill is the decoder alone. All else that a session does around it counts as cache upkeep: rows, positions and
    embeddings put together, the mask, eviction and the wait for it.
    """
    before = _stats(sessions)
    wait(model.device)
    start = perf_counter()
    with Parts(model).watched() as parts:
        append()
    returned = perf_counter()
    wait(model.device)
    end = perf_counter()
    spent = {stage: seconds - before[stage] for stage, seconds in _stats(sessions).items() if stage != "answer"}
    decoder = parts.seconds("decoder")
    spent |= {"prefill": decoder, "cache upkeep": spent["prefill"] - decoder + end - returned}
    return spent | {"rest": end - start - sum(spent.values())}


def _stats(sessions: Sequence[sp.StreamingSession]) -> Spent:
    """The sum over the sessions, which share out what they spend together."""
    every = [session.stats.seconds for session in sessions]
    return {stage: sum(seconds[stage] for seconds in every) for stage in every[0]}
