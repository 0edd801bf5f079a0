"""`python3 -m benchmarks.tune --out DIR`: searches launch parameters, and writes those found for `kernels/configs`.

First the order of the sums, one for a dtype and D: the choice whose time, relative to the best at each size, has the
least geometric mean. Then what is free, for each size. The times go to tune.csv as they come; after each dtype and D
the file `<gpu>.json` holds what was found so far, with where and how. Copied to `kernels/configs/` it is used.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from streamprune_triton.kernels.tuned import Free, Order, gpu_name, parse

from streamprune_triton import ops
from streamprune_triton.kernels import launch
from streamprune_triton.report.files import write_atomically
from streamprune_triton.rule import Rule

from . import timing
from .cases import DTYPES, Case, dry_cases
from .providers import CONFIG, Inputs
from .rows import machine
from .run import input_sets, inputs

WIDTHS = (("bf16", 3584), ("bf16", 896), ("fp16", 3584), ("fp32", 3584))
SIZES = ((1, 16, 16), (64, 16, 16), (16, 39, 69))
ROWS = (128, 256, 512)  # bytes of a row that a program loads at once, with as many warps as 16-byte loads need
SLICES = (128, 256, 512, 896, 1792)
PARTS = (1, 2, 3, 4, 7)
FRAMES = (1, 2, 4, 8)

Seen = Callable[[Case, Order, Free, float], None]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.tune", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for tune.csv and the GPU's JSON file")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="time for all of it; each dtype and D has its share"
    )
    parser.add_argument("--dry", action="store_true", help="a few choices at a toy size")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    toy = dry_cases()[0]
    widths = ((toy.dtype, toy.d),) if options.dry else WIDTHS
    entries: list[dict[str, Any]] = []
    lines: list[tuple[Any, ...]] = []

    def seen(case: Case, order: Order, free: Free, microseconds: float) -> None:
        lines.append((case.name, case.dtype, *asdict(order).values(), *asdict(free).values(), f"{microseconds:.2f}"))
        print(*lines[-1], flush=True)
        write_csv(options.out / "tune.csv", lines)

    for n, (dtype, d) in enumerate(widths):
        until = time.monotonic() + 60 * options.minutes / len(widths)
        sizes = ((toy.t, toy.h, toy.w),) if options.dry else SIZES
        cases = [Case(*size, d=d, dtype=dtype) for size in sizes]
        entries += [entry] if (entry := search(cases, device, until, seen, 2 if options.dry else None)) else []
        save(options.out / f"{gpu_name(device)}.json", device, entries)
        print(f"{n + 1} of {len(widths)}: {dtype}, D = {d}", flush=True)
    return 0 if entries else 1


def write_csv(path: Path, lines: list[tuple[Any, ...]]) -> None:
    names = ("case", "dtype", "block_d", "slice", "warps", "parts", "frames", "p50_us")
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([names, *lines])


def save(path: Path, device: torch.device, entries: list[dict[str, Any]]) -> None:
    """Writes the file, all or nothing, once it was read back as the kernels would read it."""
    told = machine(device)
    provenance = {"date": datetime.now(timezone.utc).strftime("%Y-%m-%d")}
    provenance |= {name: told[name] for name in ("commit", "driver", "torch", "triton", "command")}
    text = json.dumps({"gpu": told["device"], "provenance": provenance, "entries": entries}, indent=1) + "\n"
    parse(text)
    write_atomically(path, text.encode("utf-8"))


def search(
    cases: list[Case], device: torch.device, until: float, seen: Seen, most: int | None = None
) -> dict[str, Any] | None:
    """The entry of the file for one dtype and D; None where no choice could be run."""
    dtype, d = DTYPES[cases[0].dtype], cases[0].d
    sets = {case: [inputs(case, device, seed) for seed in range(input_sets(case, device))] for case in cases}
    found: dict[Order, dict[Case, float]] = {}
    for order in orders(d, dtype.itemsize)[:most]:
        if time.monotonic() > until and found:
            break
        times = {case: timed(case, sets[case], device, order, Free.default(d), seen) for case in cases}
        if all(math.isfinite(p50) for p50 in times.values()):
            found[order] = times
    if not found:
        return None
    least = {case: min(times[case] for times in found.values()) for case in cases}
    best = min(found, key=lambda order: sum(math.log(found[order][case] / least[case]) for case in cases))
    sizes = []
    for case in cases:
        tried = {Free.default(d): found[best][case]}
        for parts, frames in list(itertools.product(PARTS, FRAMES))[:most]:
            if time.monotonic() < until and Free(parts, frames) not in tried:
                tried[Free(parts, frames)] = timed(case, sets[case], device, best, Free(parts, frames), seen)
        sizes.append({"tokens": case.tokens, **asdict(min(tried, key=lambda free: tried[free]))})
    return {"dtype": str(dtype).removeprefix("torch."), "d": d, **asdict(best), "sizes": sizes}


def orders(d: int, itemsize: int) -> list[Order]:
    """All choices, the default first."""
    default = Order.default(d, itemsize)
    rows = [(size // itemsize, size // 64) for size in ROWS]
    choices = [Order(block_d, width, warps) for (block_d, warps), width in itertools.product(rows, SLICES)]
    fitting = [replace(each, slice=min(each.slice, -(-d // each.block_d) * each.block_d)) for each in choices]
    return list(dict.fromkeys([default, *(each for each in fitting if each.valid(itemsize) and each.block_d <= d)]))


def timed(case: Case, sets: list[Inputs], device: torch.device, order: Order, free: Free, seen: Seen) -> float:
    """Microseconds of both kernels of a step at one choice; infinite where it cannot be built."""
    rule, capacity = Rule.of(CONFIG, device), [case.t * case.h * case.w]

    def run(n: int) -> object:
        x, (state,) = sets[n].x, sets[n].states
        held = (None, None, None) if state is None else (state.reference, state.squared_norms, state.frames)
        out = ops.empty(x, rule.carrier, capacity)
        ops.by_triton(x, [held], rule, capacity, out)
        return out

    with mock.patch.multiple(launch, order=lambda *_: order, free=lambda *_: free):
        try:
            times = timing.replay(run, len(sets), 0.1) if device.type == "cuda" else timing.call(run, 1, device, 0.01)
        except Exception as problem:  # Triton's own errors of too many registers, too much shared memory
            print(f"{case.name} {order} {free}: {str(problem).splitlines()[0]}", flush=True)
            return math.inf
    seen(case, order, free, times.p50)
    return times.p50


if __name__ == "__main__":
    sys.exit(main())
