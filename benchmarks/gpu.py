"""`python3 -m benchmarks.gpu --out DIR`: all that wants a GPU, in one go, from a checkout without an installation.

Correctness first, then timings, the search for launch parameters, a model end to end, the profiler and the sanitizer.
Each part is a process of its own with a bound on its time: its share of what the parts before it have left, so that
`--only timings` gives the timings all of it. DIR holds summary.txt (a line a part), log.txt (what all of them said, in
order), and the rows of each, all written as they come, so that whatever stops a part leaves the rest.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .rows import CHECKOUT

MINUTES = "{minutes}"  # in a command: what a part may take, less what it needs to begin and to end
JOBS = 16  # tests at once, where pytest-xdist is installed: most of their time is spent compiling
GRACE = 10  # seconds to say what was found when a part is stopped


@dataclass(frozen=True)
class Part:
    """One process: its name, its weight in the time, its command, and the program without which it is left out."""

    name: str
    share: float
    command: list[str]
    needs: str = ""


def parts(out: Path, dry: bool) -> list[Part]:
    """A new part is a new line here."""
    toy = ["--dry"] * dry
    only = "triton and test_figure_two" if dry else "triton"
    timed = ["--cases", "dry", "--seconds", "0.01"] if dry else ["--seconds", "0.25", "--minutes", MINUTES]
    profiler = "ncu --clock-control none --set full --kernel-name regex:similarity_kernel|compact_kernel"
    # every tensor in memory of its own, so that what lies behind it is no longer its own
    checker = ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", "compute-sanitizer", "--error-exitcode", "9", "--tool"]
    quiet = ["-q", "--tb=short", "--durations=5", "-p", "no:cacheprovider"]
    tests = ["env", "OMP_NUM_THREADS=1", *_python("pytest", *quiet)]
    if importlib.util.find_spec("xdist") and not dry:
        tests += ["-n", str(min(JOBS, os.cpu_count() or 1))]
    searched = ["--out", str(out), "--minutes", MINUTES]
    told = ["--out", str(out / "end_to_end.csv"), "--minutes", MINUTES]
    attention = [] if dry else [Part("attention", 0.03, _python("benchmarks.attention"))]  # has no toy size
    return [
        Part("correctness", 0.22, [*tests, "tests/operator", "tests/cache", "-k", only]),
        Part("graphs", 0.1, [*tests, "tests/models/test_graphs.py", "-k", "cuda"]),
        *attention,
        Part("timings", 0.25, _python("benchmarks.bench", "--out", str(out / "rows.csv"), *timed)),
        Part("tune", 0.12, _python("benchmarks.tune", *searched, *toy)),
        Part("end_to_end", 0.2, _python("benchmarks.end_to_end", *told, *toy)),
        Part(
            "profile", 0.05, [*profiler.split(), "--launch-count", "6", *_python("benchmarks.small", "--large")], "ncu"
        ),
        Part("memcheck", 0.03, [*checker, "memcheck", *_python("benchmarks.small")], checker[2]),
        Part("racecheck", 0.03, [*checker, "racecheck", *_python("benchmarks.small")], checker[2]),
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
    wanted = [part for part in parts(out, options.dry) if options.only in part.name]
    until, ended = time.monotonic() + 60 * options.minutes, []
    with (
        (out / "log.txt").open("w", encoding="utf-8") as log,
        (out / "summary.txt").open("w", encoding="utf-8") as all_,
    ):
        for n, part in enumerate(wanted):
            left = max(until - time.monotonic(), 0.0) * part.share / sum(each.share for each in wanted[n:])
            print(f"\n== {part.name}: {' '.join(part.command)}", file=log, flush=True)
            ended.append(run(part, log.fileno(), left, environment))
            for file in (sys.stdout, all_):
                print(ended[-1], file=file, flush=True)
    return 1 if any(" FAILED " in line for line in ended) else 0


def run(part: Part, log: int, seconds: float, environment: dict[str, str]) -> str:
    """Runs a part, its output in the log, and says in a line how it ended."""
    if part.needs and shutil.which(part.needs) is None:
        return f"{part.name}: left out, there is no {part.needs}"
    begin, inside = time.monotonic(), f"{0.9 * seconds / 60:g}"
    command = [inside if word == MINUTES else word for word in part.command]
    process = subprocess.Popen(
        command, cwd=CHECKOUT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        code = process.wait(seconds)
        ended = "ok" if code == 0 else f"FAILED with {code}"
    except subprocess.TimeoutExpired:
        _stop(process)
        ended = f"stopped after {seconds:.0f} s"
    return f"{part.name}: {ended} in {time.monotonic() - begin:.0f} s"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C would, on which pytest still tells its failures; then for good, with all that it has started."""
    for sign, seconds in ((signal.SIGINT, GRACE), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, sign)
            process.wait(seconds)


if __name__ == "__main__":
    sys.exit(main())
