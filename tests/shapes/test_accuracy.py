"""The shipped model's accuracy, a short run with its rows, and the tables made of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from result_rows import a_row

from benchmarks.accuracy import __main__ as run
from benchmarks.accuracy import marks, measure, rows, runner, tables
from benchmarks.accuracy.batch import Batch
from benchmarks.accuracy.carriers import modes
from benchmarks.accuracy.carriers import report as carriers_report
from benchmarks.accuracy.carriers.network import CarrierNetwork
from benchmarks.accuracy.cell import Cell
from benchmarks.accuracy.exam import Exam
from benchmarks.accuracy.methods import METHODS
from benchmarks.accuracy.network import Network
from benchmarks.accuracy.report import __main__ as report
from benchmarks.accuracy.report.markdown import percent
from streamprune_triton.shapes import model as small
from streamprune_triton.shapes import questions


@pytest.fixture(scope="module")
def net() -> Network:
    return Network(*small.load()).eval()


@pytest.fixture(scope="module")
def given(net: Network) -> list[Batch]:
    return list(measure.batches(net, measure.VALIDATION + 500_000, 8, 16, 5))


def accuracy(net: Network, given: list[Batch]) -> tuple[float, int]:
    found = marks.marks(given, [measure.correct(net, batch, measure.least(batch, 1.0)) for batch in given])
    return found.score.share, found.score.asked


def test_the_shipped_model_answers_and_a_random_one_does_not(net: Network, given: list[Batch]) -> None:
    share, asked = accuracy(net, given)
    assert asked >= 60
    assert share >= 0.8
    assert accuracy(Network(*small.build()).eval(), given)[0] < 0.5


def test_the_shipped_model_answers_from_every_memory(given: list[Batch]) -> None:
    """As it was before it was trained for carriers, it did not."""

    def share(net: CarrierNetwork, mode: modes.Mode) -> float:
        found = marks.marks(given, [mode.correct(net, batch, measure.least(batch, 1.0)) for batch in given])
        return found.score.share

    net, plain = (CarrierNetwork(*small.load(path)).eval() for path in (small.WEIGHTS, small.PLAIN))
    assert share(net, modes.TOKENS) >= 0.8
    assert share(net, modes.hybrid(2)) >= 0.8
    assert share(net, modes.CARRIERS) >= 0.7
    assert share(plain, modes.TOKENS) >= 0.8
    assert share(plain, modes.CARRIERS) < 0.5


def test_the_same_tokens_are_not_asked_about_twice(
    net: Network, given: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Exam(net, given)
    first = asked.marks(lambda batch: measure.least(batch, 0.2))
    monkeypatch.setattr("benchmarks.accuracy.exam.correct", None)
    again = asked.marks(lambda batch: measure.least(batch, 0.2))
    assert (first.right == again.right).all()
    with pytest.raises(TypeError):
        asked.marks(lambda batch: measure.least(batch, 0.3))
    assert asked.dropped(lambda batch: torch.tensor([[3, 5, -1], [0, 1, 2]])) == 1 - 5 / (asked.clips * 8 * 36)


def short(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> list[rows.Row]:
    monkeypatch.setattr(runner, "STEPS", 8)
    assert run.main(["--clips", "16", "--quick", "--out", str(folder / "quick.csv"), *options]) == 0
    return rows.read(folder / "quick.csv")


def test_a_short_run_writes_rows_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = short(tmp_path, monkeypatch)
    assert {row.table for row in found} == set(tables.QUICK)
    keys = {(row.method, row.setting) for row in found if row.table == "ratios"}
    assert keys >= {(name, share) for name in [*METHODS, "unpruned"] for share in ("85%", "92%")}
    assert keys >= {(name, "0%") for name in ("unpruned", "last step", "blind", "majority")}
    whole = {(row.table, row.method, row.setting): row for row in found if row.kind == marks.ALL}
    assert len({row.asked for row in whole.values()}) == 1
    for key, row in whole.items():
        same = [each for each in found if (each.table, each.method, each.setting) == key]
        parts = [each for each in same if each.kind in questions.TYPES]
        if parts:
            assert (sum(each.right for each in parts), sum(each.asked for each in parts)) == (row.right, row.asked)
    assert {row.weights for row in found} == {rows.digest(small.WEIGHTS)}
    check_report(tmp_path, found)


def check_report(folder: Path, found: list[Any]) -> None:
    pytest.importorskip("matplotlib", reason="draws the plots")
    files = [folder / "README.md", folder / "card.md"]
    for path in files:
        path.write_text("<!-- benchmark:begin -->\n<!-- benchmark:end -->\n")
    options = ["--results", str(folder), "--readme", str(files[0]), "--card", str(files[1])]
    assert report.main([*options, "--check"]) == 1
    assert report.main(options) == 0
    assert report.main([*options, "--check"]) == 0
    told = percent(report.Results(found).share("ratios", "85%", "ours"))
    assert all(told in path.read_text() for path in files)
    pictures = {name: (folder / f"{name}.png").read_bytes() for name in ("ratios", "masks", "thresholds")}
    assert report.plots(report.Results(found)) == pictures


def test_two_files_are_two_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.safetensors"
    model = small.load()[0]
    model.lm_head.weight.data.mul_(-1)
    small.save(model, other)

    def one(asked: Exam) -> Any:
        yield Cell("all", "", 0.0, asked.marks(lambda batch: measure.least(batch, 1.0)))

    monkeypatch.setattr(runner, "TABLES", {"masks": one})
    weights = [str(small.WEIGHTS), str(other)]
    found = short(tmp_path, monkeypatch, "--tables", "masks", "--seeds", "4", "7", "--weights", *weights)
    whole = {row.seed: row for row in found if row.kind == marks.ALL}
    assert [row.weights for row in whole.values()] == [rows.digest(path) for path in weights]
    assert whole[4].right > whole[7].right
    assert whole[4].spread is None


def test_tables_are_added_to_those_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one(asked: Exam) -> Any:
        yield Cell("all", "", 0.0, asked.marks(lambda batch: measure.least(batch, 0.1)))

    monkeypatch.setattr(runner, "TABLES", {"masks": one})
    other, stale = a_row(), a_row(table="masks")
    rows.write(tmp_path / "quick.csv", [stale, other])
    found = short(tmp_path, monkeypatch, "--tables", "masks", "--add")
    assert found[0] == other
    assert {row.table for row in found[1:]} == {"masks"}
    assert stale not in found
    assert {row.table for row in short(tmp_path, monkeypatch, "--tables", "masks")} == {"masks"}


def test_weights_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--weights", str(tmp_path / "none.safetensors"), "--out", str(tmp_path / "a.csv")]) == 2
    assert capsys.readouterr().err.startswith("accuracy: ")
    assert not (tmp_path / "a.csv").exists()


def test_the_longer_run_is_what_the_tables_are_made_of(tmp_path: Path) -> None:
    rows.write(tmp_path / "quick.csv", [a_row(clips=1)])
    assert report.load(tmp_path).rows == [a_row(clips=1)]
    rows.write(tmp_path / "full.csv", [a_row(clips=2, spread=0.25)])
    assert report.load(tmp_path).rows == [a_row(clips=2, spread=0.25)]


def test_the_tables_are_what_the_rows_give_for_the_shipped_weights() -> None:
    assert report.main(["--check"]) == 0, "run python3 -m benchmarks.accuracy.report"
    own = report.shipped(run.RESULTS).rows
    assert {row.weights for row in own} == {rows.digest(small.WEIGHTS)}, "run python3 -m benchmarks.accuracy"
    assert {row.kind for row in own} == {*questions.TYPES, *marks.GROUPS}
    assert {row.seed for row in report.load(run.RESULTS).rows} == {0, 1, 2}, "the page tells of three trainings"


def test_the_tables_of_carriers_are_what_the_rows_give() -> None:
    assert carriers_report.main(["--check"]) == 0, "run python3 -m benchmarks.accuracy.carriers.report"


def test_rows_of_other_weights_make_no_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows.write(tmp_path / "full.csv", [a_row()])
    assert report.main(["--results", str(tmp_path)]) == 2
    assert rows.digest(small.WEIGHTS) in capsys.readouterr().err
