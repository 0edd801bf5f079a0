"""Clocks. Everything is warmed up first and told as percentiles of many runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from streamprune_triton.streaming.graphs import capture

Run = Callable[[int], object]  # given the number of the input set


@dataclass(frozen=True)
class Times:
    """Microseconds a run: 20th, 50th and 80th percentile, of how many runs."""

    p20: float
    p50: float
    p80: float
    runs: int

    @classmethod
    def of(cls, microseconds: list[float]) -> Times:
        values = torch.tensor(microseconds, dtype=torch.float64)
        p20, p50, p80 = torch.quantile(values, torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).tolist()
        return cls(p20, p50, p80, len(microseconds))


def call(run: Run, sets: int, device: torch.device, seconds: float = 1.0, least: int = 5) -> Times:
    """Host time from the call to its result being there, the input sets in turn."""
    for n in range(max(sets, 2) if device.type == "cuda" else 2):  # on a GPU the allocator meets every set first
        run(n % sets)
    _wait(device)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or (time.perf_counter() < end and len(times) < 2000):
        start = time.perf_counter()
        run((len(times) + 2) % sets)
        _wait(device)
        times.append(1e6 * (time.perf_counter() - start))
    return Times.of(times)


def replay(run: Run, sets: int, seconds: float = 1.0) -> Times:
    """Device time of a captured CUDA graph that runs all input sets, divided by their number.

    The sets together are larger than the L2 cache, so each run finds its input cold. Raises RuntimeError where the
    call cannot be captured: it waits for the host.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())  # which may still be making the inputs
    with torch.cuda.stream(stream):
        for n in range(sets):
            run(n)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    kept: list[object] = []
    with capture(graph, stream):
        kept.extend(run(n) for n in range(sets))
    graph.replay()
    torch.cuda.synchronize()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 10 or (time.perf_counter() < end and len(times) < 500):
        begin, finish = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        graph.replay()  # so that the device is busy while the one that is timed is launched
        begin.record()
        graph.replay()
        finish.record()
        finish.synchronize()
        times.append(1e3 * begin.elapsed_time(finish) / sets)
    return Times.of(times)


def copy_bandwidth(device: torch.device) -> float:
    """GB/s of a large copy, bytes read plus bytes written: the roof that everything is measured against."""
    size = (2 << 30) if device.type == "cuda" else (256 << 20)
    source = torch.empty(size, dtype=torch.uint8, device=device).random_(0, 255)
    target = torch.empty_like(source)
    times = call(lambda _: target.copy_(source), 1, device, seconds=2.0)
    return 2 * size / times.p50 / 1e3


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
