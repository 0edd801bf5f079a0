"""Result rows: what each says, where they lie, and the machine they were measured on."""

from __future__ import annotations

import csv
import io
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from streamprune_triton.report.files import write_atomically

CHECKOUT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Row:
    """One provider on one case in one mode. Times are microseconds; an empty cell was not measured.

    Attributes:
        mode: "kernel" (CUDA graph replay, input not in the cache), "call" (from the call to a synchronised result),
            "padded" (the same, of prune_padded).
        model_bytes: what no implementation can avoid, see `cases.Case.model_bytes`.
        share: model_bytes over p50, as a share of the copy bandwidth `roof_gbps` measured in the same run.
        launches, host_waits: of one run.
        extra_bytes: peak memory beyond what is returned.
        error: see `providers.Provider.check`.
    """

    provider: str
    mode: str
    case: str
    dtype: str
    drop: float
    state: bool
    p20_us: float
    p50_us: float
    p80_us: float
    runs: int
    model_bytes: int
    roof_gbps: float
    share: float
    launches: int | None
    host_waits: int | None
    extra_bytes: int | None
    error: float
    device: str
    driver: str
    python: str
    torch: str
    triton: str
    commit: str
    command: str


@lru_cache(maxsize=4)
def machine(device: torch.device) -> dict[str, str]:
    """The columns that are the same for a whole run, asked for once."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "driver": "" if device.type == "cpu" else _driver(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _triton_version(),
        "commit": commit(),
        "command": shlex.join(["python3", "-m", "benchmarks." + Path(sys.argv[0]).stem, *sys.argv[1:]]),
    }


def _driver() -> str:
    told = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0]
    return told or str(torch.version.cuda or torch.version.hip)


def commit() -> str:
    """The checkout's commit, marked where files other than results differ from it; GIT_COMMIT in the environment, or
    nothing, where there is no git."""
    found = _output("git", "-C", str(CHECKOUT), "rev-parse", "--short=12", "HEAD")
    files = (".", ":!benchmarks/results")
    changed = _output("git", "-C", str(CHECKOUT), "status", "--porcelain", "--untracked-files=no", "--", *files)
    return found + ("+changes" if found and changed else "") or os.environ.get("GIT_COMMIT", "")


def write(path: Path, rows: Iterable[Any], kind: type[Any] = Row) -> None:
    """Writes rows, dataclasses of one kind, as CSV, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [f.name for f in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _cell(v) for k, v in asdict(row).items()} for row in rows)
    write_atomically(path, text.getvalue().encode("utf-8"))


def check_out(path: Path) -> None:
    """Makes the folder of a file of rows. Raises ValueError where the file could not be written there."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give a file in it")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK | os.X_OK) or not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: give a file in a folder that is there or can be made")


def read(path: Path, kind: type[Any] = Row) -> list[Any]:
    """The rows of a file. Raises ValueError where it is not of this schema."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names = [f.name for f in fields(kind)]
        if reader.fieldnames != names:
            raise ValueError(f"{path} must have the columns {', '.join(names)}, got {reader.fieldnames}")
        columns = fields(kind)
        return [kind(**{f.name: _value(f.type, line[f.name]) for f in columns}) for line in reader]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _value(kind: Any, text: str) -> Any:
    if text == "" and "None" in kind:
        return None
    if kind == "bool":
        return text == "True"
    return {"int": int, "float": float}.get(kind.split(" ")[0], str)(text)


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _processor() -> str:
    names = [line for line in _output("cat", "/proc/cpuinfo").splitlines() if line.startswith("model name")]
    name = names[0].split(":")[1].strip() if names else platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def _triton_version() -> str:
    try:
        import triton
    except ImportError:
        return ""
    return str(triton.__version__)
