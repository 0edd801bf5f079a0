"""`python3 -m benchmarks.model`: a model of the time of each GPU case, from the compiled kernels. Needs no GPU.

A model, not a result: it knows what the compiled fused pass asks for (instructions, registers, bytes) and what the data
sheets promise, and nothing of clocks under load, cache misses or contention. Its rows lie in results/model.csv; its
table, with a slot for the measured time, is in benchmarks/README.md. `--table` writes that alone, from the rows.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from unittest import mock

import torch

from streamprune_triton import ops
from streamprune_triton.rule import Rule

from . import rows
from .cases import DTYPES, Case, gpu_cases
from .compiled import TARGETS, Launch, Machine, machine, record
from .generated import settle
from .providers import CONFIG
from .rows import CHECKOUT, Row

PATH = CHECKOUT / "benchmarks" / "results" / "model.csv"
LAUNCH = 2.5  # microseconds of a launch in a CUDA graph, assumed
LATENCY = 0.8  # microseconds of a round of loads from memory, assumed


@dataclass(frozen=True)
class Gpu:
    """NVIDIA's data sheets: A100 80 GB SXM (2020), H100, H200 SXM (2023); the clock follows from the float32 rate."""

    name: str
    target: str
    processors: int
    bandwidth: float  # GB/s
    tflops: float  # of float32 without tensor cores
    lanes: int  # float32 operations a clock and multiprocessor

    @property
    def clock(self) -> float:
        """MHz."""
        return self.tflops * 1e6 / (2 * self.processors * self.lanes)


GPUS = (
    Gpu("A100", "sm_80", 108, 2039.0, 19.5, 64),
    Gpu("H100", "sm_90", 132, 3350.0, 67.0, 128),
    Gpu("H200", "sm_90", 132, 4800.0, 67.0, 128),
)
ISSUED = 128  # instructions of a thread a clock and multiprocessor: 4 warps of 32
L1 = 128  # bytes a clock and multiprocessor
REGISTERS, THREADS, SHARED = 65536, 2048, 160 << 10  # of a multiprocessor


@dataclass(frozen=True)
class Modelled:
    """Times in microseconds; `time` is the largest of the four, times the waves' remainder, and the rest."""

    gpu: str
    case: str
    dtype: str
    drop: float
    registers: int
    programs: int
    resident: int  # programs at once on a multiprocessor
    memory: float  # of the fused pass: features, references and scratch
    issue: float
    l1: float
    latency: float
    compaction: float  # kept tokens read and written, scratch read
    launches: float
    time: float


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.model", description=__doc__)
    parser.add_argument("--table", action="store_true", help="leave the model's rows as they are")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the table is another")
    options = parser.parse_args(argv)
    if not options.table and not options.check:
        save([modelled(case, gpu) for case in gpu_cases() for gpu in GPUS])
    readme = CHECKOUT / "benchmarks" / "README.md"
    return settle("model", lambda: {readme: f"\n{table(read(), measured())}\n"}, dict, options.check)


def save(found: list[Modelled]) -> None:
    with PATH.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Modelled)], lineterminator="\n")
        writer.writeheader()
        for row in found:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in asdict(row).items()})


def measured() -> list[Row]:
    """The rows of all results that were timed on a GPU."""
    found = [row for path in sorted(PATH.parent.glob("*.csv")) if path != PATH for row in rows.read(path)]
    return [row for row in found if row.driver]


def modelled(case: Case, gpu: Gpu) -> Modelled:
    """The model's row of a case."""
    fused, made, scratch = compiled(case, gpu)
    given = fused.arguments
    threads = 32 * fused.options["num_warps"]
    resident = min(
        REGISTERS // (threads * -(-made.registers // 8) * 8), THREADS // threads, SHARED // max(1, made.shared)
    )
    programs = fused.grid[0]
    features = case.tokens * case.d
    read = case.itemsize * (features + case.frame * case.d * (1 + case.state)) + scratch
    tokens = given["TILE_H"] * given["TILE_W"]
    tiles = [-(-h // given["TILE_H"]) * -(-w // given["TILE_W"]) for h, w in case.grids]
    padded = case.t * sum(tiles) * tokens * case.d
    loop = made.loop
    a_feature = threads / (tokens * given["BLOCK_D"])  # threads' instructions
    adds = sum(name.startswith(("FFMA", "FADD", "FMUL")) for name in loop)
    slots = padded * a_feature * max(len(loop) / ISSUED, adds / gpu.lanes)
    at_work = min(programs, gpu.processors)
    clocks = at_work * gpu.clock  # of all multiprocessors in a microsecond
    waves = programs / (gpu.processors * resident)
    remainder = -(-waves // 1) / waves if waves > 1 else 1.0
    walked = min(given["tiles_per_program"], max(tiles)) * given["frames_per_program"]
    rounds = walked * -(-given["SLICE"] // given["BLOCK_D"])
    memory, issue = read / gpu.bandwidth / 1e3, slots / clocks
    l1, latency = 2.75 * features * case.itemsize / L1 / clocks, max(1.0, -(-waves // 1)) * rounds * LATENCY
    compaction = (2 * (1 - case.drop) * features * case.itemsize + scratch) / gpu.bandwidth / 1e3
    time = max(memory, issue, l1, latency) * remainder + compaction + 2 * LAUNCH
    return Modelled(
        gpu.name, case.name, case.dtype, case.drop, made.registers, programs, resident, memory, issue, l1, latency,
        compaction, 2 * LAUNCH, time,
    )  # fmt: skip


def compiled(case: Case, gpu: Gpu) -> tuple[Launch, Machine, int]:
    """(the fused pass as this case launches it, what was made of it, bytes of scratch)."""
    from streamprune_triton.kernels import launch

    x = [torch.empty(case.t, *grid, case.d, dtype=DTYPES[case.dtype]) for grid in case.grids]
    rule, capacity = Rule.of(CONFIG, x[0].device), [1] * case.streams
    out = ops.empty(x, rule.carrier, capacity)
    held: list[tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]] = [
        (each[0], torch.empty(each.shape[1:3]), torch.zeros((), dtype=torch.int64)) for each in x
    ]
    with mock.patch.object(launch, "_processors", return_value=gpu.processors):
        fused = record(lambda: ops.by_triton(x, held, rule, capacity, out))[0]
    scratch = fused.arguments["dots_ptr"].nbytes + fused.arguments["sums_ptr"].nbytes
    return fused, _made(gpu.target, case.d, case.dtype, case.streams > 1, _Hidden(fused)), scratch


class _Hidden:
    """A launch that counts as equal to all others: the cache looks at what it was specialised for."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hidden)


@lru_cache(maxsize=64)
def _made(target: str, d: int, dtype: str, ragged: bool, hidden: _Hidden) -> Machine:
    return machine(hidden.launch.compile(TARGETS[target]))


def read(path: Path = PATH) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(found: list[dict[str, str]], timed: list[Row]) -> str:
    """Markdown: a line a case, and for each GPU the modelled time, what bounds it, and the measured one or nothing."""
    names = list(dict.fromkeys(row["gpu"] for row in found))
    cells = {(row["gpu"], row["case"], row["dtype"], row["drop"]): row for row in found}
    lines = [["case", *(f"{name}: {what}" for name in names for what in ("modelled", "bound by", "measured"))]]
    lines.append(["---", *["--:", "---", "--:"] * len(names)])
    for case in dict.fromkeys(key[1:] for key in cells):
        told = f"{case[0]} {case[1]}" + ("" if float(case[2]) == Case.drop else f", {float(case[2]):.0%} repeat")
        line = [told]
        for name in names:
            key = (name, *case)
            row = cells[key]
            terms = {term: float(row[term]) for term in ("memory", "issue", "l1", "latency")}
            line += [f"{float(row['time']):.3g} us", max(terms, key=lambda term: terms[term]), _measured(row, timed)]
        lines.append(line)
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _measured(row: dict[str, str], timed: list[Row]) -> str:
    """The p50 of ours in a graph's replay on that GPU; empty where there is no such row."""
    for each in timed:
        same = (each.case, each.dtype, each.drop) == (row["case"], row["dtype"], float(row["drop"]))
        if same and each.mode == "kernel" and row["gpu"] in each.device and each.provider.startswith("ours"):
            return f"{each.p50_us:.3g} us"
    return ""


if __name__ == "__main__":
    sys.exit(main())
