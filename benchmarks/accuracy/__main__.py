"""`python3 -m benchmarks.accuracy`: right answers of the trained small model, by what is dropped and how; rows as CSV.

Test clips, on none of which it was trained, with twelve questions each; see `tables`. Several files of weights are
several training seeds. `--quick` takes one to two minutes on one core. Rows are written as tables are done. Then
`python3 -m benchmarks.accuracy.report` puts them into tables and plots.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from streamprune_triton.shapes import model as small

from ..rows import CHECKOUT
from . import rows
from .runner import Job, done
from .tables import QUICK, TABLES

RESULTS = CHECKOUT / "benchmarks" / "results" / "accuracy"
CLIPS, QUICK_CLIPS = 192, 96


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    out = options.out or RESULTS / ("quick.csv" if options.quick else "full.csv")
    try:
        found = rows.read(out) if options.add else []
        measure(options, out, [row for row in found if row.table not in options.tables])
    except (OSError, ValueError) as problem:
        print(f"accuracy: {problem}", file=sys.stderr)
        return 2
    print(f"rows in {out}")
    return 0


def measure(options: argparse.Namespace, out: Path, found: list[rows.Row]) -> None:
    """Runs the tables, and writes their rows and those that were there each time that one is done."""
    jobs = [
        Job(name, path, seed, options.clips, options.quick, rows.digest(path))
        for path, seed in zip(options.weights, options.seeds, strict=True)
        for name in options.tables
    ]
    for more in done(jobs, options.jobs):
        found += more
        rows.write(out, sorted(found, key=lambda row: (list(TABLES).index(row.table), row.seed)))


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_CLIPS} clips, and of the tables what is quick")
    parser.add_argument("--tables", nargs="+", choices=TABLES, metavar="NAME", help=", ".join(TABLES))
    parser.add_argument("--weights", nargs="+", type=Path, default=[small.WEIGHTS], help="one for each training seed")
    parser.add_argument("--seeds", nargs="+", type=int, help="of the training, one for each file (default: 0, 1, ...)")
    parser.add_argument("--clips", type=int, help=f"rounded up to a multiple of 16 (default: {CLIPS})")
    parser.add_argument("--add", action="store_true", help="keep what the file of rows has of other tables")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, help="CSV file for the rows (results/accuracy/quick.csv or full.csv)")
    options = parser.parse_args(argv)
    options.clips = options.clips or (QUICK_CLIPS if options.quick else CLIPS)
    options.tables = options.tables or (QUICK if options.quick else tuple(TABLES))
    options.seeds = options.seeds or range(len(options.weights))
    if len(options.seeds) != len(options.weights):
        parser.error(f"--seeds must name one for each of {len(options.weights)} weights, got {len(options.seeds)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
