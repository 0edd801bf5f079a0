"""Times every provider on every case: each is checked first, and no row is written for one that is wrong."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import streamprune_triton as sp

from . import fields, timing
from .cases import Case
from .providers import CONFIG, Inputs, Provider
from .report import baseline, key, kind, title
from .rows import Row, machine

COLD = 3  # times the last cache that all input sets together fill


@dataclass(frozen=True)
class Budget:
    """Seconds a row, and when to stop altogether."""

    seconds: float = 0.5
    until: float = float("inf")  # of time.monotonic()

    def spent(self) -> bool:
        return time.monotonic() > self.until


def rows(
    cases: list[Case], found: list[Provider], device: torch.device, budget: Budget, say: Callable[[str], None]
) -> Iterator[Row]:
    """A row for each provider, case and mode that fits; what fails its check or does not run is said, not written.

    On a GPU the rows of ours come once more at the end, with what they launch and wait for: behind a profiler
    everything is slower.
    """
    say("copy bandwidth ...")
    roof = timing.copy_bandwidth(device)
    say(f"copy bandwidth {roof:.0f} GB/s")
    times: dict[tuple[Case, str], float] = {}  # ours, microseconds, by case and kind of row
    ours: list[tuple[Row, Callable[[], Any]]] = []
    for case, provider, sets in _turns(cases, found, device):
        if budget.spent():
            say("out of time")
            break
        try:
            error = provider.check(case, sets[0])
            for row in _timed(provider, case, sets, device, budget, roof, error):
                if baseline(row):
                    times[case, kind(row)] = row.p50_us
                if device.type == "cuda" and _is_ours(provider):
                    ours.append((row, partial(provider.run, sets[0])))
                say(told(row, times.get((case, kind(row)))))
                yield row
        except (AssertionError, RuntimeError, ValueError, torch.cuda.OutOfMemoryError) as problem:
            say(f"NO ROW  {provider.name}  {case.name} {case.dtype}: {str(problem).splitlines()[0][:150]}")
    for row, again in ours:
        launches, waits, extra = _cost(again)
        yield replace(row, launches=launches, host_waits=waits, extra_bytes=extra)


def _turns(
    cases: list[Case], found: list[Provider], device: torch.device
) -> Iterator[tuple[Case, Provider, list[Inputs]]]:
    """Ours on every case, then the others on each: what is stopped has told of ours."""
    for group in ([p for p in found if _is_ours(p)], [p for p in found if not _is_ours(p)]):
        for case in cases:
            fitting = [provider for provider in group if provider.fits(case)]
            sets = [inputs(case, device, seed) for seed in range(input_sets(case, device))] if fitting else []
            for provider in fitting:
                yield case, provider, sets


def _is_ours(provider: Provider) -> bool:
    return provider.name.startswith("ours")


def told(row: Row, ours: float | None) -> str:
    """A row in a line, and how many times ours it takes, where ours (microseconds) was timed."""
    times = "" if ours is None else f"  {row.p50_us / ours:7.2f}x ours"
    what = f"{row.provider:34} {row.mode:7} {title(key(row)):30}"
    return f"{what} {row.p50_us:10.1f} us  {row.share:6.1%} of the roof{times}"


def inputs(case: Case, device: torch.device, seed: int) -> Inputs:
    """Features of the case, and the states that the frame before left."""
    clips = fields.streams(case, device, seed)
    states = [sp.prune(clip[:1], CONFIG).state if case.state else None for clip in clips]
    return Inputs([clip[1:] for clip in clips], states)


def input_sets(case: Case, device: torch.device) -> int:
    """So many input sets that no run finds its own in the cache."""
    cuda = device.type == "cuda"
    cache = torch.cuda.get_device_properties(device).L2_cache_size if cuda else _last_level_cache()
    size = case.tokens * case.d * case.itemsize
    return int(min(64, max(2, -(-COLD * cache // size))))


def _last_level_cache() -> int:
    """Bytes of the processor's L3 cache, as Linux tells them; 64 MiB where it does not."""
    try:
        told = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text(encoding="ascii").strip()
        return int(told.rstrip("KM")) << {"K": 10, "M": 20}[told[-1]]
    except (OSError, ValueError, KeyError, IndexError):
        return 64 << 20


def _timed(
    provider: Provider,
    case: Case,
    sets: list[Inputs],
    device: torch.device,
    budget: Budget,
    roof: float,
    error: float,
) -> Iterator[Row]:

    def run(n: int) -> object:
        return provider.run(sets[n])

    for mode in provider.modes:
        if mode == "kernel" and device.type != "cuda":
            continue
        if mode == "kernel":
            times = timing.replay(run, len(sets), budget.seconds)
        else:
            times = timing.call(run, len(sets), device, budget.seconds)
        share = case.model_bytes / times.p50 / 1e3 / roof
        yield Row(
            provider.name, mode, case.name, case.dtype, case.drop, case.state, times.p20, times.p50, times.p80,
            times.runs, case.model_bytes, roof, share, None, None, None, error, **machine(device),
        )  # fmt: skip


def _cost(run: Callable[[], Any]) -> tuple[int | None, int, int]:
    """(launches, host waits, bytes at the peak beyond the result) of one run on a GPU.

    None launches where the profiler saw none: it needs rights that a container may lack.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    launches = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            result = run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = sum("called a synchronizing" in str(w.message) for w in caught)
    extra = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
    del result
    return launches or None, waits, extra
