"""`python3 -m benchmarks.tune`: times the fused pass alone over its launch parameters, and writes what it saw.

A search, not a switch: BLOCK_D, slices and tiles are part of the order of every sum, so a better choice is made in
`kernels/launch.py`, for a width and dtype, once and for all batch sizes.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from pathlib import Path

import torch

from streamprune_triton import ops
from streamprune_triton.kernels import launch
from streamprune_triton.rule import Rule

from . import timing
from .cases import Case, dry_cases
from .providers import CONFIG, Inputs
from .run import input_sets, inputs

SHAPES = [Case(1, 16, 16), Case(64, 16, 16), Case(16, 39, 69), Case(1, 77, 137)]
BLOCKS = (32, 64, 128)  # features a program loads of a row at once
WARPS = (4, 8)
SLICES = (256, 512, 1024, 3584)
TILES = ((4, 8), (8, 8), (8, 16))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.tune", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="CSV file for what was seen")
    parser.add_argument("--dry", action="store_true", help="one choice at a toy size")
    options = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seen = []
    for case in dry_cases()[:1] if options.dry else SHAPES:
        sets = [inputs(case, device, seed) for seed in range(input_sets(case, device))]
        choices = itertools.product(BLOCKS, WARPS, SLICES, TILES)
        for block_d, warps, width, tile in itertools.islice(choices, 1 if options.dry else None):
            if width % block_d or tile[0] * tile[1] * block_d > 16384:
                continue
            shape = launch.Shape(block_d, width, -(-case.d // width))
            try:
                times = timed(case, sets, device, shape, tile, warps)
            except (RuntimeError, ValueError) as problem:
                print(f"{case.name} {shape} {tile}: {str(problem).splitlines()[0]}")
                continue
            bandwidth = case.model_bytes / times.p50 / 1e3
            seen.append((case.name, block_d, warps, width, *tile, f"{times.p50:.2f}", f"{bandwidth:.0f}"))
            print(*seen[-1], flush=True)
            with options.out.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows(
                    [("case", "block_d", "warps", "slice", "tile_h", "tile_w", "p50_us", "gbps"), *seen]
                )
    return 0 if seen else 1


def timed(
    case: Case, sets: list[Inputs], device: torch.device, shape: launch.Shape, tile: tuple[int, int], warps: int
) -> timing.Times:
    """Both kernels of a step at one choice of launch parameters."""
    rule, capacity = Rule.of(CONFIG, device), [case.t * case.h * case.w]

    def run(n: int) -> object:
        x, (state,) = sets[n].x, sets[n].states
        held = (None, None, None) if state is None else (state.reference, state.squared_norms, state.frames)
        out = ops.empty(x, rule.carrier, capacity)
        ops.by_triton(x, [held], rule, capacity, out)
        return out

    before = launch.Shape.of, launch.TILE_H, launch.TILE_W, launch.WARPS
    launch.Shape.of = staticmethod(lambda d, itemsize: shape)  # type: ignore[method-assign,assignment]
    launch.TILE_H, launch.TILE_W, launch.WARPS = *tile, warps
    try:
        return timing.replay(run, len(sets), 0.1) if device.type == "cuda" else timing.call(run, 1, device, 0.01)
    finally:
        launch.Shape.of, launch.TILE_H, launch.TILE_W, launch.WARPS = before  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main())
