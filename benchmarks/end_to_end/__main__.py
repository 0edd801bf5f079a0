"""`python3 -m benchmarks.end_to_end`: sessions timed beside the model's own `generate` and peers; rows as CSV."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from . import rows
from .bench import Bench, chosen
from .clips import clip
from .long import long_stream
from .streams import captured, streams


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.end_to_end", description=__doc__)
    parser.add_argument("--out", type=Path, help="CSV file for the rows, or a folder; without it they are only printed")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all of it")
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("--dry", action="store_true", help="all of it at toy sizes, in seconds")
    options = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    until = time.monotonic() + 60 * options.minutes
    wanted = {name: run for name, run in SCENARIOS.items() if options.only in name}
    if not wanted:
        print(f"end_to_end: --only {options.only!r} names none of {', '.join(SCENARIOS)}", file=sys.stderr)
        return 2
    bench = Bench.on(device, chosen(device, options.dry), until, say)
    found = written(bench, wanted, options.out and _file(options.out))
    return 0 if found else 1


SCENARIOS: dict[str, Callable[[Bench], Iterator[rows.Row]]] = {
    "one stream, carriers": partial(streams, mode="carriers", count=1),
    "graphs": partial(captured, mode="carriers"),
    "many streams, carriers": lambda bench: streams(bench, "carriers", bench.sizes.streams),
    "clip": clip,
    "one stream, tokens": partial(streams, mode="tokens", count=1),
    "long stream": partial(long_stream, mode="carriers"),
}


def written(bench: Bench, wanted: dict[str, Callable[[Bench], Iterator[rows.Row]]], out: Path | None) -> list[rows.Row]:
    """The rows of the scenarios; the file holds all so far, whenever this is stopped."""
    found: list[rows.Row] = []
    for name, run in wanted.items():
        if bench.spent():
            say(f"out of time before {name}")
            break
        for row in run(bench):
            found.append(row)
            if out:
                rows.write(out, found)
    say(f"{len(found)} rows" + (f" in {out}" if out else ""))
    return found


def _file(out: Path) -> Path:
    return out if out.suffix == ".csv" else out / "end_to_end.csv"


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
