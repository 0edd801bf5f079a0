"""`python3 -m benchmarks.bench`: times the pruning step beside its peers and writes the rows as CSV."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from . import cases, rows, run
from .providers import providers

CASES = {"gpu": cases.gpu_cases, "cpu": cases.cpu_cases, "dry": cases.dry_cases}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.bench", description=__doc__)
    parser.add_argument("--out", type=Path, help="CSV file for the rows; without it they are only printed")
    parser.add_argument("--cases", choices=CASES, help="default: gpu on a GPU, else cpu")
    parser.add_argument("--seconds", type=float, default=0.5, help="time spent on each row")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all of it")
    parser.add_argument("--only", default="", help="providers whose name contains this")
    options = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    budget = run.Budget(options.seconds, time.monotonic() + 60 * options.minutes)
    chosen = [p for p in providers(device) if options.only in p.name]
    if not chosen:
        print(f"bench: --only {options.only!r} names no provider", file=sys.stderr)
        return 2
    found: list[rows.Row] = []
    for row in run.rows(CASES[options.cases or device.type.replace("cuda", "gpu")](), chosen, device, budget, say):
        found.append(row)
        if options.out:
            rows.write(options.out, found)
    print(f"{len(found)} rows" + (f" in {options.out}" if options.out else ""))
    return 0 if found else 1


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
