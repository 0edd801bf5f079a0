"""`python3 -m benchmarks.gpu --out DIR`: all that wants a GPU, in one go, from a checkout without an installation.

Correctness first, then timings, the search for launch parameters, the profiler and the sanitizer. Each part is a
process of its own with a bound on its time, and leaves its files in DIR whatever becomes of the others.
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


def parts(out: Path, dry: bool) -> list[Part]:
    python = [sys.executable]
    small = [*python, "-m", "benchmarks.small"]
    kernels = "similarity_kernel|compact_kernel"
    tests = ["-k", "triton and test_figure_two"] if dry else ["-k", "triton"]
    ncu = [
        "ncu",
        "--clock-control",
        "none",
        "--set",
        "full",
        "--kernel-name",
        f"regex:{kernels}",
        "--launch-count",
        "6",
    ]
    sanitizer = ["compute-sanitizer", "--error-exitcode", "9", "--tool"]
    return [
        Part("correctness", 0.3, [*python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/operator", *tests]),
        Part(
            "timings",
            0.4,
            [*python, "-m", "benchmarks.bench", "--out", str(out / "rows.csv")]
            + (["--cases", "dry", "--seconds", "0.01"] if dry else ["--seconds", "0.25"]),
        ),
        Part("tune", 0.15, [*python, "-m", "benchmarks.tune", "--out", str(out / "tune.csv"), *(["--dry"] * dry)]),
        Part("profile", 0.05, [*ncu, *small, "--large"], "ncu"),
        Part("memcheck", 0.05, [*sanitizer, "memcheck", *small], "compute-sanitizer"),
        Part("racecheck", 0.05, [*sanitizer, "racecheck", *small], "compute-sanitizer"),
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for logs and rows")
    parser.add_argument("--minutes", type=float, default=9.0, help="time for all of it")
    parser.add_argument("--dry", action="store_true", help="the same parts at toy sizes, on a CPU")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | ({"TRITON_INTERPRET": "1"} if options.dry else {})
    summary = []
    for part in parts(options.out, options.dry):
        line = run(part, options.out, 60 * options.minutes * part.share, environment)
        print(line, flush=True)
        summary.append(line)
    (options.out / "summary.txt").write_text("\n".join(summary) + "\n", encoding="utf-8")
    return 1 if any(" FAILED " in line for line in summary) else 0


def run(part: Part, out: Path, seconds: float, environment: dict[str, str]) -> str:
    """Runs a part, its output in a log, and says in a line how it ended."""
    if part.needs and shutil.which(part.needs) is None:
        return f"{part.name}: left out, there is no {part.needs}"
    begin = time.monotonic()
    with (out / f"{part.name}.log").open("w", encoding="utf-8") as log:
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
