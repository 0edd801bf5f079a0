"""`python3 -m benchmarks.bench`: times the pruning step beside its peers and writes the rows as CSV."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

from streamprune_triton.cli.options import positive

from . import cases, rows, run
from .providers import providers
from .report import key

DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"} | {name: name for name in cases.DTYPES}
CASE = "TxHxWxD[:DTYPE[:DROP]]"
DEFAULTS = (cases.Case.dtype, str(cases.Case.drop))
CASES = {"gpu": cases.gpu_cases, "cpu": cases.cpu_cases, "dry": cases.dry_cases}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.bench", description=__doc__)
    parser.add_argument("--out", type=Path, help="CSV file for the rows; without it they are only printed")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--cases", choices=CASES, help="default: gpu on a GPU, else cpu")
    which.add_argument(
        "--case",
        type=case,
        action="append",
        metavar=CASE,
        help="features of your own, instead (bf16, 0.92 repeat); again for more",
    )
    parser.add_argument("--seconds", type=positive, default=0.5, help="time spent on each row")
    parser.add_argument("--minutes", type=positive, default=8.0, help="time for all of it")
    parser.add_argument("--only", default="", help="providers whose name contains this")
    options = parser.parse_args(argv)
    try:
        if options.out:
            rows.check_out(options.out)
    except ValueError as problem:
        print(f"bench: --out: {problem}", file=sys.stderr)
        return 2
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    budget = run.Budget(options.seconds, time.monotonic() + 60 * options.minutes)
    chosen = [p for p in providers(device) if options.only in p.name]
    if not chosen:
        print(f"bench: --only {options.only!r} names no provider", file=sys.stderr)
        return 2
    timed = options.case or CASES[options.cases or device.type.replace("cuda", "gpu")]()
    found: dict[object, rows.Row] = {}
    for row in run.rows(timed, chosen, device, budget, say):
        found[row.provider, row.mode, key(row)] = row
        if options.out:
            rows.write(options.out, found.values())
    print(f"{len(found)} rows" + (f" in {options.out}" if options.out else ""))
    return 0 if found else 1


def case(text: str) -> cases.Case:
    """For argparse: a case as in CASE."""
    found = None
    with suppress(ValueError, KeyError):
        sizes, dtype, drop = *text.split(":"), *DEFAULTS[text.count(":") :]
        t, h, w, d = map(int, sizes.split("x"))
        found = cases.Case(t, h, w, d, DTYPES[dtype], float(drop))
    if found is None or min(found.t, found.h, found.w, found.d) < 1 or not 0 <= found.drop <= 1:
        raise argparse.ArgumentTypeError(
            f"must be {CASE}, as 2x24x24x896:fp32:0.5, DTYPE of {', '.join(DTYPES)}, DROP in [0, 1], got {text!r}"
        )
    return found


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
