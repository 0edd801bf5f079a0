"""`python3 -m benchmarks.gpu --out DIR`: all that wants a GPU, in one go, from a checkout without an installation.

Correctness first, then timings, the search for launch parameters, a model end to end, the profiler and the sanitizer.
Each part is a process of its own with a bound on its time. DIR holds summary.txt (a line a part), log.txt (what all of
them said, in order), and the rows of each, all written as they come, so that whatever stops a part leaves the rest.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .rows import CHECKOUT


@dataclass(frozen=True)
class Part:
    """One process: its name, its share of the time, its command, and the program without which it is left out."""

    name: str
    share: float
    command: list[str]
    needs: str = ""


def parts(out: Path, dry: bool, minutes: float = 9.0) -> list[Part]:
    """A new part is a new line here; the shares add up to one."""
    toy = ["--dry"] * dry
    only = "triton and test_figure_two" if dry else "triton"
    timed = ["--cases", "dry", "--seconds", "0.01"] if dry else ["--seconds", "0.25"]
    profiler = "ncu --clock-control none --set full --kernel-name regex:similarity_kernel|compact_kernel"
    checker = ["compute-sanitizer", "--error-exitcode", "9", "--tool"]
    tests = _python("pytest", "-q", "-p", "no:cacheprovider")
    searched = ["--out", str(out), "--minutes", f"{0.13 * minutes:g}"]
    told = ["--out", str(out / "end_to_end.csv"), "--minutes", f"{0.18 * minutes:g}"]
    return [
        Part("correctness", 0.25, [*tests, "tests/operator", "tests/cache", "-k", only]),
        Part("graphs", 0.05, [*tests, "tests/models/test_graphs.py", "-k", "cuda"]),
        Part("timings", 0.25, _python("benchmarks.bench", "--out", str(out / "rows.csv"), *timed)),
        Part("tune", 0.15, _python("benchmarks.tune", *searched, *toy)),
        Part("end_to_end", 0.2, _python("benchmarks.end_to_end", *told, *toy)),
        Part(
            "profile", 0.04, [*profiler.split(), "--launch-count", "6", *_python("benchmarks.small", "--large")], "ncu"
        ),
        Part("memcheck", 0.03, [*checker, "memcheck", *_python("benchmarks.small")], checker[0]),
        Part("racecheck", 0.03, [*checker, "racecheck", *_python("benchmarks.small")], checker[0]),
    ]


def _python(*module: str) -> list[str]:
    return [sys.executable, "-m", *module]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the log and the rows")
    parser.add_argument("--minutes", type=float, default=9.0, help="time for all of it")
    parser.add_argument("--only", default="", help="parts whose name contains this")
    parser.add_argument("--dry", action="store_true", help="the same parts at toy sizes, on a CPU")
    options = parser.parse_args(argv)
    out = options.out.resolve()  # the parts run in the checkout
    out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | ({"TRITON_INTERPRET": "1"} if options.dry else {})
    ended = []
    with (
        (out / "log.txt").open("w", encoding="utf-8") as log,
        (out / "summary.txt").open("w", encoding="utf-8") as all_,
    ):
        for part in parts(out, options.dry, options.minutes):
            if options.only not in part.name:
                continue
            print(f"\n== {part.name}: {' '.join(part.command)}", file=log, flush=True)
            ended.append(run(part, log.fileno(), 60 * options.minutes * part.share, environment))
            for file in (sys.stdout, all_):
                print(ended[-1], file=file, flush=True)
    return 1 if any(" FAILED " in line for line in ended) else 0


def run(part: Part, log: int, seconds: float, environment: dict[str, str]) -> str:
    """Runs a part, its output in the log, and says in a line how it ended."""
    if part.needs and shutil.which(part.needs) is None:
        return f"{part.name}: left out, there is no {part.needs}"
    begin = time.monotonic()
    try:
        code = subprocess.run(
            part.command, cwd=CHECKOUT, env=environment, stdout=log, stderr=subprocess.STDOUT, timeout=seconds
        ).returncode
        ended = "ok" if code == 0 else f"FAILED with {code}"
    except subprocess.TimeoutExpired:
        ended = f"stopped after {seconds:.0f} s"
    return f"{part.name}: {ended} in {time.monotonic() - begin:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
