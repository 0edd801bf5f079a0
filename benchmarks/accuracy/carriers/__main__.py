"""`python3 -m benchmarks.accuracy.carriers`: right answers where a step is remembered as a carrier; rows as CSV.

    --weights "untrained=A.safetensors" "stage 1=B.safetensors" "stages 1 and 2=C.safetensors"

By default the package's own weights, before and behind the training with carriers. The first file is the one that this
training began with; the tables "memory" and "hybrid" are of the last.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from streamprune_triton.shapes import model as small

from .. import rows, runner
from ..__main__ import RESULTS
from ..marks import Marks
from .network import CarrierNetwork
from .tables import TABLES, Trial

CLIPS = 192
SHIPPED = [f"untrained={small.PLAIN}", f"stage 2 alone={small.WEIGHTS}"]


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    try:
        files = {name: Path(path) for name, _, path in (each.partition("=") for each in options.weights)}
        trial = Trial({name: CarrierNetwork(*small.load(path)).eval() for name, path in files.items()}, options.clips)
        found = [row for row in rows.read(options.out) if row.seed != options.seed] if options.add else []
        for table in options.tables:
            found += marked(table, trial, files, options.seed)
            rows.write(options.out, found)
    except (OSError, ValueError) as problem:
        print(f"carriers: {problem}", file=sys.stderr)
        return 2
    print(f"rows in {options.out}")
    return 0


def marked(table: str, trial: Trial, files: dict[str, Path], seed: int) -> Iterator[rows.Row]:
    """The rows of a table; progress goes to stdout."""
    first: dict[str, Marks] = {}
    command = shlex.join(["python3", "-m", "benchmarks.accuracy.carriers", *sys.argv[1:]])
    told = rows.machine() | {"command": command}
    since = time.monotonic()
    for cell in TABLES[table](trial):
        path = files[cell.stage]
        job = runner.Job(table, path, seed, trial.clips, False, rows.digest(path))
        yield from runner.counted(job, cell, first.get(cell.setting), cell.steps, told)
        first.setdefault(cell.setting, cell.marks)
        runner.tell(job, cell, time.monotonic() - since)
        since = time.monotonic()


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.accuracy.carriers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", nargs="+", default=SHIPPED, metavar="NAME=FILE")
    parser.add_argument(
        "--tables", nargs="+", choices=TABLES, default=list(TABLES), metavar="NAME", help=", ".join(TABLES)
    )
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--add", action="store_true", help="keep what the file of rows has of other seeds")
    parser.add_argument("--clips", type=int, default=CLIPS, help=f"rounded up to a multiple of 16 (default: {CLIPS})")
    parser.add_argument("--out", type=Path, default=RESULTS / "carriers.csv", help="CSV file for the rows")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
