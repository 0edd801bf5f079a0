"""Training with carriers and the experiments with them, each run for a moment."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.accuracy import curriculum as before
from benchmarks.accuracy import rows
from benchmarks.accuracy.carriers import __main__ as asking
from benchmarks.accuracy.carriers import curriculum, modes, report, tables, train
from benchmarks.accuracy.marks import ALL
from benchmarks.accuracy.methods import everything
from benchmarks.accuracy.records import Records
from streamprune_triton.shapes import model as small


def run(monkeypatch: pytest.MonkeyPatch, out: Path, one: int, two: int) -> train.Run:
    told = ["--out", str(out), "--one-steps", str(one), "--two-steps", str(two), "--rows", "300", "--validation", "16"]
    monkeypatch.setattr(sys, "argv", ["train", *told])
    made = train.Run(train.arguments())
    made.train()
    return made


def test_a_run_trains_both_stages_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curriculum, "ONE", {2: 1.0})
    monkeypatch.setattr(curriculum, "TWO", {2: 1.0})
    monkeypatch.setattr(curriculum, "TOWER_STEPS", 4)
    monkeypatch.setattr(train, "REPORT", 1)
    first = run(monkeypatch, tmp_path, 1, 1)
    again = run(monkeypatch, tmp_path, 1, 2)
    assert (first.steps, again.steps) == ({"one": 1, "two": 1}, {"one": 1, "two": 2})
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(each["stage"], each["step"]) for each in log if "seconds" in each] == [("one", 1), ("two", 1), ("two", 2)]
    assert {each["mode"] for each in log if "mode" in each} == set(train.MODES)
    begun, one, two = (
        small.load(path)[0].state_dict()
        for path in (small.PLAIN, tmp_path / "one.safetensors", tmp_path / "model.safetensors")
    )
    tower = "model.visual.merger.mlp.0.weight"
    inner = "model.language_model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(begun[tower], one[tower])
    assert torch.equal(one[tower], two[tower])
    assert not torch.equal(one[inner], two[inner])


def test_a_killed_run_comes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ONE", "TWO"):
        monkeypatch.setattr(curriculum, name, {2: 1.0})
    monkeypatch.setattr(before, "STAGES", ((0.0, {2: 1.0}),))
    whole = run(monkeypatch, tmp_path / "whole", 1, 4)
    step, taken = train.Run.step, itertools.count()

    def killed(self: train.Run) -> None:
        if next(taken) == 3:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(train.Run, "step", killed)
    monkeypatch.setattr(Records, "due", lambda self: True)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tmp_path / "killed", 1, 4)
    again = run(monkeypatch, tmp_path / "killed", 1, 4)
    expected = whole.net.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.net.state_dict().items())


def test_batches_of_the_second_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With carriers, which are taught what they tell, or as in the training before."""
    monkeypatch.setattr(curriculum, "TWO", {2: 1.0})
    monkeypatch.setattr(before, "STAGES", ((0.0, {2: 1.0}),))
    made = run(monkeypatch, tmp_path, 0, 0)
    for plain, has in ((0.0, {"there", "was at", "spot"}), (1.0, {"row", "seen_set"})):
        made.options.plain = plain
        batch, losses, right = made.second(np.random.default_rng(0))
        assert has <= set(losses)
        assert {"there", "row"} & set(losses) == has & {"there", "row"}
        assert right.shape == batch.text.shape


def test_a_short_run_of_the_experiments_writes_rows_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MEMORY_STEPS", (6,))
    monkeypatch.setattr(tables, "CARRIERS_KEPT", (3,))
    monkeypatch.setattr(tables, "SHARES", (0.25,))
    monkeypatch.setattr(tables, "READ", {name: tables.READ[name] for name in ("12 a step", "thresholds 0.5, 0.5")})
    for name in ("carriers", "hybrid"):
        monkeypatch.setitem(tables.TABLES, name, lambda trial, table=tables.TABLES[name]: table(trial, steps=6))
    out, readme = tmp_path / "carriers.csv", tmp_path / "README.md"
    files = [f"untrained={small.WEIGHTS}", f"trained={small.WEIGHTS}"]
    assert asking.main(["--weights", *files, "--clips", "16", "--out", str(out)]) == 0
    found = [row for row in rows.read(out) if row.kind == ALL]
    assert {row.table for row in found} == set(tables.TABLES)
    stages: dict[str, list[tuple[object, ...]]] = {}
    for row in found:
        if row.table == "carriers":
            stages.setdefault(row.setting, []).append((row.method, row.right, row.asked, row.dropped))
    assert stages["untrained"] == stages["trained"], "the same weights, the same questions"
    kept = {(row.method, row.setting): 1 - (row.dropped or 0) for row in found if row.table == "hybrid"}
    assert all(share <= 0.25 + 1e-6 for (method, _), share in kept.items() if method in ("tokens", "hybrid"))
    assert {round(share, 4) for (method, _), share in kept.items() if method == "carriers"} == {round(1 / 36, 4)}
    readme.write_text("<!-- benchmark:begin -->\n<!-- benchmark:end -->\n")
    told = ["--results", str(out), "--readme", str(readme)]
    assert [report.main([*told, "--check"]), report.main(told), report.main([*told, "--check"])] == [1, 0, 0]


def test_seeds_are_added_to_those_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one(trial: tables.Trial) -> Iterator[tables.Asked]:
        yield trial.cell("a", modes.TOKENS, everything, "all", "", 2)

    monkeypatch.setattr(asking, "TABLES", {"one": one})
    out = str(tmp_path / "carriers.csv")
    for seed, add in ((3, False), (5, True), (5, True)):
        told = ["--weights", f"a={small.WEIGHTS}", "--clips", "16", "--out", out, "--seed", str(seed)]
        assert asking.main([*told, "--tables", "one", *["--add"][: int(add)]]) == 0
    whole = [row for row in rows.read(Path(out)) if row.kind == ALL]
    assert [row.seed for row in whole] == [3, 5]
    assert whole[0].right == whole[1].right > 0


def test_questions_come_late() -> None:
    known = tables.late(0, 2, 6).known
    assert (known[:, :3] < 0).all()
    assert (known[:, 3:] >= 0).any()


def test_weights_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asking.main(["--weights", f"a={tmp_path / 'none'}", "--out", str(tmp_path / "a.csv")]) == 2
    assert capsys.readouterr().err.startswith("carriers: ")


def test_memories_of_training_are_of_all_kinds() -> None:

    rng = np.random.default_rng(0)
    drawn = [curriculum.memory(rng, 16) for _ in range(200)]
    assert {memory.recent_frames == 0 for memory in drawn} == {True, False}
    assert any(memory.max_carriers < 16 for memory in drawn)
