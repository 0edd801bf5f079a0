"""The benchmark's rows, table, plots and commands."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import attention, bench, cases, generated, gpu, model, providers, report, rows, run, tune
from benchmarks.accuracy import rows as accuracy_rows
from benchmarks.end_to_end import rows as session_rows
from streamprune_triton.cli import main

CHECKOUT = Path(__file__).resolve().parents[1]
RESULTS = CHECKOUT / "benchmarks" / "results"
CPU = torch.device("cpu")
NAMES = ("ours (torch)", "evs")
TORCH_COMPILE_WARNS = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")

ROW = rows.Row(
    "ours (torch)", "call", "1x16x16x3584", "bf16", 0.92, True, 90.0, 100.0, 110.5, 7, 10_000, 20.0, 0.25,
    None, None, None, 2.5e-7, "a CPU, 2 threads", "", "3.10.0", "2.11.0", "3.6.0", "abc", "python3 -m benchmarks.bench",
)  # fmt: skip


def evs(row: rows.Row) -> rows.Row:
    """The same from another provider, in thrice the time."""
    return replace(row, provider="evs", p50_us=3 * row.p50_us)


def on_gpu() -> list[rows.Row]:
    """What a GPU run would leave: other grids, ratios, modes, and more cases than a table is wide."""
    ours = replace(
        ROW, provider="ours, padded (triton)", mode="kernel", launches=2, host_waits=0, extra_bytes=0, driver="580"
    )
    grids = [replace(ours, case=f"1x{h}x{w}x3584") for h, w in cases.GRIDS]
    found = [*grids, *(replace(ours, drop=drop) for drop in (0.0, 0.5)), replace(ours, case="64 of 1x16x16x3584")]
    found.append(replace(ours, provider="ours (triton)", mode="call"))
    return [*found, *map(evs, found)]


def test_the_readme_is_what_the_rows_give():
    assert report.main(["--check"]) == 0, "run python3 -m benchmarks.report"


def test_the_committed_plots_are_those_of_the_rows():
    files = [path for path in RESULTS.glob("*.csv") if path.stem != report.MODEL]
    wanted = {f"{p.stem}-{name}.png" for p in files for name in report.drawings(rows.read(p))}
    assert {path.name for path in RESULTS.glob("*.png")} == wanted


def test_report_writes_readme_and_plots_once_and_for_all(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="draws with matplotlib")
    image = pytest.importorskip("PIL.Image", reason="opens the plots with Pillow")
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{generated.BEGIN}old\n{generated.END}after\n", encoding="utf-8")
    rows.write(tmp_path / "card.csv", on_gpu())
    options = ["--results", str(tmp_path), "--readme", str(readme)]
    assert report.main([*options, "--check"]) == 1
    assert "not what the rows give" in capsys.readouterr().err
    assert report.main(options) == 0
    assert report.main([*options, "--check"]) == 0
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{generated.BEGIN}")
    assert text.endswith(f"{generated.END}after\n")
    assert report.main(options) == 0
    assert readme.read_text(encoding="utf-8") == text
    names = sorted(path.name for path in tmp_path.glob("*.png"))
    assert names == [f"card-{name}.png" for name in ("drop", "peers", "resolution", "roof")]
    for name in names:
        with image.open(io.BytesIO((tmp_path / name).read_bytes())) as picture:
            picture.verify()
            assert picture.format == "PNG"
        assert f"benchmarks/results/{name}" in text
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "card.csv", *names}


def test_table_keeps_losing_rows_and_says_its_conditions():
    faster = replace(evs(ROW), p50_us=4.0)
    text = report.block({"cpu": [ROW, faster, evs(replace(ROW, dtype="fp32", p50_us=1e4))]})
    assert "| p50 of a call | 1x16x16x3584 bf16 | 1x16x16x3584 fp32 |\n" in text
    assert "| ours (torch) | 100 us |  |\n" in text
    assert "| evs | 4.00 us (0.04x) | 30.0 ms |\n" in text  # no ratio without a row of ours
    for condition in (ROW.device, ROW.torch, ROW.triton, ROW.commit, f"`{ROW.command}`", "20 GB/s"):
        assert condition in text


def test_table_compares_only_what_was_measured_alike():
    other = replace(ROW, commit="def", p50_us=50.0)
    text = report.block({"cpu": [ROW, evs(ROW), other, evs(other)]})
    assert text.count("(3.00x)") == 2
    kernel = report.block({"gpu": on_gpu()})
    assert "p50 of a graph replay" in kernel
    assert "| ours (triton) | 100 us |" in kernel
    assert "3 more cases" in kernel
    assert "1x16x16x3584 bf16, 50% repeat" in kernel


def test_table_says_that_no_gpu_was_measured_until_one_was():
    assert report.NO_GPU in report.block({})
    assert report.NO_GPU in report.block({"cpu": [ROW]})
    assert report.NO_GPU not in report.block({"cpu": [ROW], "gpu": on_gpu()})


@pytest.mark.parametrize("text", ["", f"{generated.END}{generated.BEGIN}", f"{generated.BEGIN}{generated.END}" * 2])
def test_report_refuses_a_file_without_its_markers(text, tmp_path, capsys):
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert report.main(["--results", str(tmp_path), "--readme", str(tmp_path / "README.md")]) == 2
    assert "once each" in capsys.readouterr().err


@pytest.mark.parametrize(("time", "text"), [(0.5, "0.500 us"), (335.2, "335 us"), (999.6, "1.00 ms"), (2e5, "200 ms")])
def test_durations(time, text):
    assert report.duration(time) == text


def test_rows_survive_a_file(tmp_path):
    measured = [ROW, *on_gpu()]
    rows.write(tmp_path / "new" / "rows.csv", measured)
    assert rows.read(tmp_path / "new" / "rows.csv") == measured
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["rows.csv"]


def test_rows_that_cannot_be_written_leave_nothing(tmp_path):
    (tmp_path / "rows.csv").mkdir()
    with pytest.raises(OSError, match=r"rows\.csv"):
        rows.write(tmp_path / "rows.csv", [ROW])
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


@TORCH_COMPILE_WARNS
def test_a_file_of_rows_is_looked_at_before_anything_is_timed(tmp_path, monkeypatch, capsys):
    def timed(*_):
        raise AssertionError("timed")

    monkeypatch.setattr(run, "rows", timed)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for out, problem in (
        (".", ". is a folder: give a file in it"),
        ("file/rows.csv", "file/rows.csv cannot be written: give a file in a folder that is there or can be made"),
    ):
        assert bench.main(["--cases", "dry", "--out", out]) == 2
        assert capsys.readouterr() == ("", f"bench: --out: {problem}\n")
    with pytest.raises(AssertionError, match="timed"):
        bench.main(["--cases", "dry", "--out", "new/rows.csv"])


@pytest.mark.parametrize(
    ("machine", "module"),
    [
        (lambda: rows.machine.__wrapped__(CPU), "bench"),
        (lambda: session_rows.machine(CPU), "end_to_end"),
        (accuracy_rows.machine, "accuracy"),
    ],
    ids=["bench", "end_to_end", "accuracy"],
)
def test_the_command_of_a_row_is_one_for_a_shell(machine, module, monkeypatch):
    given = ["--only=ours (torch)", "--out", "it's.csv"]
    monkeypatch.setattr(sys, "argv", ["bench.py", *given])
    assert shlex.split(machine()["command"]) == ["python3", "-m", f"benchmarks.{module}", *given]


def test_rows_of_another_schema_are_refused(tmp_path):
    (tmp_path / "rows.csv").write_text("provider,mode\nours,call\n", encoding="utf-8")
    with pytest.raises(ValueError, match="must have the columns"):
        rows.read(tmp_path / "rows.csv")


@TORCH_COMPILE_WARNS
def test_what_is_wrong_gets_no_row(monkeypatch):
    """Similarities that are off by a little are a failed check; whoever comes next is timed all the same."""
    honest = providers._prune

    def wrong(inputs):
        results = honest(inputs)
        results[0].temporal.add_(1e-3)
        return results

    monkeypatch.setattr(run.timing, "copy_bandwidth", lambda device: 10.0)
    monkeypatch.setattr(providers, "_prune", wrong)
    chosen = [p for p in providers.providers(CPU) if p.name.startswith("ours (") or p.name == "evs"]
    said: list[str] = []
    found = list(run.rows(cases.dry_cases()[:1], chosen, CPU, run.Budget(0.0), said.append))
    assert [row.provider for row in found] == ["evs"]
    assert [line for line in said if line.startswith("NO ROW  ours (") and "off by" in line]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_attention_is_timed_on_a_gpu_alone(capsys):
    assert attention.main() == 2
    assert capsys.readouterr().err == "attention: needs a GPU\n"


def test_attention_is_asked_for_each_length(monkeypatch, capsys):
    """On no GPU at all, so that the command is known to run through."""
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "none")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 0)
    monkeypatch.setattr(attention, "run", lambda length, masked: asked.append((length, masked)) or 0.001)
    assert attention.main() == 0
    assert len(asked) == 4 * (1 + 2 * attention.LENGTHS)
    assert capsys.readouterr().out.count("1.000 ms a new length") == 4


def test_the_parts_of_the_gpu_command(tmp_path):
    for dry in (False, True):
        parts = gpu.parts(tmp_path, dry)
        names = [part.name for part in parts if part.name != "attention" or dry]  # which has no toy size
        assert names[:5] == ["correctness", "graphs", "timings", "tune", "end_to_end"]
        assert len({part.name for part in parts}) == len(parts)
        assert all(part.share > 0 for part in parts)
        for part in parts:
            assert part.command[0] in (sys.executable, part.needs, "env")
            assert part.needs in ("", *part.command)
            modules = [part.command[n + 1] for n, word in enumerate(part.command) if word == "-m"]
            assert len(modules) == 1
            source = CHECKOUT / modules[0].replace(".", "/")
            assert modules[0] == "pytest" or source.with_suffix(".py").is_file() or (source / "__main__.py").is_file()


SLOW = """
import time
try:
    time.sleep(60)
finally:
    print("as far as it came")
"""


def test_a_part_that_fails_or_takes_too_long_is_said_and_the_next_one_runs(tmp_path, monkeypatch, capsys):
    python = [sys.executable, "-c"]
    some = [
        gpu.Part("bad", 0.5, [*python, "print('no good'); raise SystemExit(3)"]),
        gpu.Part("slow", 0.02, [*python, SLOW]),
        gpu.Part("absent", 0.1, ["no-such-program"], "no-such-program"),
        gpu.Part("good", 0.5, [*python, "import sys; print('fine', float(sys.argv[1]) > 0.5)", gpu.MINUTES]),
    ]
    monkeypatch.setattr(gpu, "parts", lambda out, dry: some)
    assert gpu.main(["--out", str(tmp_path / "new"), "--minutes", "1"]) == 1
    told = [re.sub(" (in|after) .*", "", line) for line in capsys.readouterr().out.splitlines()]
    assert told == [
        "bad: FAILED with 3",
        "slow: stopped",
        "absent: left out, there is no no-such-program",
        "good: ok",
    ]
    assert (tmp_path / "new" / "summary.txt").read_text().count("\n") == 4
    log = (tmp_path / "new" / "log.txt").read_text()
    assert log.index("no good") < log.index("== slow") < log.index("fine True"), "the last one has what is left"
    assert log.index("== slow") < log.index("as far as it came") < log.index("fine True")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"log.txt", "summary.txt"}


def test_the_search_writes_a_file_that_the_kernels_read(tmp_path, monkeypatch):
    """Of the orders the one that is best over all sizes, and what is free for each size by itself."""
    from streamprune_triton.kernels import tuned

    def pretended(case, sets, device, order, free, seen):
        wide = abs(order.slice - 512) + (900 if order.slice == 256 and case.t > 1 else 0)
        return 100.0 + wide + 10 * abs(free.parts - (2 if case.t == 1 else 4)) + free.frames

    monkeypatch.setattr(tune, "timed", pretended)
    monkeypatch.setattr(tune, "inputs", lambda *args: None)
    sizes = [cases.Case(1, 16, 16), cases.Case(16, 39, 69)]
    entry = tune.search(sizes, CPU, float("inf"), lambda *args: None)
    assert entry is not None
    tune.save(tmp_path / "cpu.json", CPU, [entry])
    monkeypatch.setattr(tuned, "FOLDER", tmp_path)
    tuned.forget()
    try:
        assert tuned.order(CPU, torch.bfloat16, 3584).slice == 512
        assert tuned.free(CPU, torch.bfloat16, 3584, 256) == tuned.Free(2, 1)
        assert tuned.free(CPU, torch.bfloat16, 3584, 43056) == tuned.Free(4, 1)
    finally:
        tuned.forget()


def test_the_table_of_the_model_is_what_its_rows_give():
    assert model.main(["--check"]) == 0, "run python3 -m benchmarks.model --table"


def test_the_model_has_a_slot_for_what_was_measured():
    found = [row for row in model.read() if row["case"] == "1x16x16x3584" and row["gpu"] == "H200"][:1]
    empty = model.table(found, [])
    assert empty.endswith(" |  |\n")
    timed = replace(on_gpu()[1], device="NVIDIA H200", p50_us=12.345)
    assert timed.case == found[0]["case"]
    assert model.table(found, [timed]) == empty.replace(" |  |\n", " | 12.3 us |\n")
    assert model.table(found, [replace(timed, device="NVIDIA A100")]) == empty


def test_the_model_is_of_the_default_launches():
    """Bytes, programs and occupancy of a case that can be counted by hand."""
    row = model.modelled(cases.Case(1, 16, 16), model.GPUS[-1])
    assert row.programs == 4 * 7
    assert row.resident == 2
    scratch = 256 * 7 * 16 + 4 * 3584 * 4
    assert row.memory == pytest.approx((3 * 256 * 3584 * 2 + scratch) / 4800e3)
    assert row.time > max(row.memory, row.issue, row.l1, row.latency) + row.launches


def test_bench_writes_rows(tmp_path):
    out = tmp_path / "rows.csv"
    options = ["--cases", "dry", "--seconds", "0.01", "--only", "ours", "--out", str(out)]
    command = [sys.executable, "-m", "benchmarks.bench", *options]
    done = subprocess.run(
        command, cwd=CHECKOUT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    measured = rows.read(out)
    assert done.stdout.endswith(f"{len(measured)} rows in {out}\n")
    assert {row.case for row in measured} == {case.name for case in cases.dry_cases()}
    for row in measured:
        assert 0 < row.p20_us <= row.p50_us <= row.p80_us
        assert row.share == pytest.approx(row.model_bytes / row.p50_us / 1e3 / row.roof_gbps, rel=1e-3)
        assert row.command.startswith("python3 -m benchmarks.bench --cases dry ")


def test_streamprune_bench_is_the_same_command(monkeypatch, capsys):
    """It takes the options of `python3 -m benchmarks.bench`, no more and no fewer, and hands them on."""
    from streamprune_triton.benchmarks import bench as packaged

    assert packaged.__file__ == bench.__file__

    def options() -> set[str]:
        return {word for word in capsys.readouterr().out.replace("]", " ").split() if word.startswith("--")}

    assert main(["bench", "--help"]) == 0
    taken = options()
    with pytest.raises(SystemExit):
        bench.main(["--help"])
    assert taken == options()
    seen = []
    monkeypatch.setattr(packaged, "main", lambda argv: seen.append((argv, sys.argv)) or 1)
    before = sys.argv
    assert main(["bench", "--cases", "dry", "--only", "ours (torch)"]) == 1
    assert seen == [(["--cases=dry", "--only=ours (torch)"], ["bench", "--cases=dry", "--only=ours (torch)"])]
    assert sys.argv is before
    assert main(["bench", "--case=1x2x3x4:fp16", "--case", "1x1x1x1"]) == 1
    assert seen[1][0] == ["--case=1x2x3x4:fp16", "--case=1x1x1x1"]
    assert main(["bench", "--seconds", "soon"]) == 2
    assert "must be a number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "case"),
    [
        ("2x24x20x896", cases.Case(2, 24, 20, 896, "bf16", 0.92)),
        ("1x3x4x32:float32", cases.Case(1, 3, 4, 32, "fp32", 0.92)),
        ("1x3x4x32:fp16:0", cases.Case(1, 3, 4, 32, "fp16", 0.0)),
        ("1x3x4x32:bfloat16:1", cases.Case(1, 3, 4, 32, "bf16", 1.0)),
    ],
)
def test_a_case_of_ones_own(text, case):
    assert bench.case(text) == case


@pytest.mark.parametrize(
    "text", ["2x24x24", "2x24x24x896x1", "0x4x4x32", "axbxcxd", "1x1x1x1:fp8", "1x1x1x1:fp32:1.5", "1x1x1x1:fp32:0:0"]
)
def test_a_case_that_is_none_is_refused_in_a_line(text, capsys):
    assert main(["bench", "--case", text]) == 2
    err = capsys.readouterr().err
    assert err.startswith("streamprune: argument --case: must be TxHxWxD[:DTYPE[:DROP]], as 2x24x24x896:fp32:0.5")
    assert f"got {text!r}" in err
    assert err.count("\n") == 1


@TORCH_COMPILE_WARNS
def test_cases_of_ones_own_are_timed_instead_and_compared_with_ours(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(run.timing, "copy_bandwidth", lambda device: 10.0)
    monkeypatch.setattr(bench, "providers", lambda device: [p for p in providers.providers(device) if p.name in NAMES])
    out = tmp_path / "rows.csv"
    given = ["--case", "2x3x4x32:fp32:0.5", "--case", "1x5x4x16:fp32", "--seconds", "0.01", "--out", str(out)]
    assert bench.main(given) == 0
    measured = rows.read(out)
    assert [(row.provider, row.case, row.drop) for row in measured] == [
        (name, case, drop) for name in NAMES for case, drop in (("2x3x4x32", 0.5), ("1x5x4x16", 0.92))
    ], "ours on every case, then the others"
    told = [line for line in capsys.readouterr().out.splitlines() if line.endswith("x ours")]
    assert len(told) == 4
    for ours, peer, title in ((0, 2, "2x3x4x32 fp32, 50% repeat "), (1, 3, "1x5x4x16 fp32 ")):
        assert title in told[ours]
        assert title in told[peer]
        assert float(told[ours].split()[-2].rstrip("x")) == 1
        ratio = measured[peer].p50_us / measured[ours].p50_us
        assert float(told[peer].split()[-2].rstrip("x")) == pytest.approx(ratio, abs=0.01)


@pytest.mark.skipif(shutil.which("git") is None, reason="asks git")
def test_a_commit_is_marked_where_files_differ_but_not_for_results(tmp_path, monkeypatch):
    def git(*told):
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", tmp_path, *who, *told], check=True, capture_output=True)

    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    for path in (tmp_path / "code.py", results / "rows.csv"):
        path.write_text("a\n", encoding="utf-8")
    git("init")
    git("add", ".")
    git("commit", "-m", "a")
    monkeypatch.setattr(rows, "CHECKOUT", tmp_path)
    clean = rows.commit()
    assert len(clean) == 12
    (results / "rows.csv").write_text("b\n", encoding="utf-8")
    assert rows.commit() == clean
    (tmp_path / "code.py").write_text("b\n", encoding="utf-8")
    assert rows.commit() == clean + "+changes"
