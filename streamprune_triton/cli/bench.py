"""streamprune bench."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .options import positive


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "bench",
        help="time the pruning step beside its peers",
        description="Checks and times the pruning step and its peers, on the GPU where there is one.",
    )
    parser.add_argument("--out", type=Path, help="CSV file for the rows; without it they are only printed")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--cases", choices=("gpu", "cpu", "dry"), help="default: gpu on a GPU, else cpu")
    which.add_argument(
        "--case",
        type=case,
        action="append",
        metavar="TxHxWxD[:DTYPE[:DROP]]",
        help="features of your own, instead (bf16, 0.92 repeat); again for more",
    )
    parser.add_argument("--seconds", type=positive, help="time spent on each row (0.5)")
    parser.add_argument("--minutes", type=positive, help="time for all of it (8)")
    parser.add_argument("--only", help="providers whose name contains this")
    parser.set_defaults(run=run)


def case(text: str) -> str:
    """For argparse: a case of the benchmark, as it came."""
    from ..benchmarks.bench import case as checked

    checked(text)
    return text


def run(args: argparse.Namespace) -> int:
    """As `python3 -m benchmarks.bench` with the same options, which is the command that the rows name."""
    from ..benchmarks.bench import main

    names = ("out", "cases", "seconds", "minutes", "only")
    given = [f"--{name}={getattr(args, name)}" for name in names if getattr(args, name) is not None]
    given += [f"--case={each}" for each in args.case or ()]
    before = sys.argv
    sys.argv = ["bench", *given]
    try:
        return int(main(given))
    finally:
        sys.argv = before
