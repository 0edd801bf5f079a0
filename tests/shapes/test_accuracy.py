"""The shipped model's accuracy, the methods it is measured with, and the tables made of the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.accuracy import __main__ as run
from benchmarks.accuracy import measure, methods, report, rows
from benchmarks.accuracy.batch import AREA, Batch
from benchmarks.accuracy.network import Network
from streamprune_triton.shapes import model as small
from streamprune_triton.shapes import questions


@pytest.fixture(scope="module")
def net() -> Network:
    return Network(*small.load()).eval()


@pytest.fixture(scope="module")
def given(net: Network) -> list[Batch]:
    return list(measure.batches(net, measure.VALIDATION + 500_000, 8, 16, 5))


def accuracy(net: Network, given: list[Batch]) -> tuple[float, int]:
    score = run.whole(measure.scores(net, given, 1.0).values())
    return score.share, score.asked


def test_the_shipped_model_answers_and_a_random_one_does_not(net: Network, given: list[Batch]) -> None:
    share, asked = accuracy(net, given)
    assert asked >= 60
    assert share >= 0.8
    assert accuracy(Network(*small.build()).eval(), given)[0] < 0.5


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_method_keeps_its_budget(name: str, given: list[Batch]) -> None:
    x = given[0].x[:3]
    count = methods.budget(8, 0.85)
    keep = methods.kept(methods.METHODS[name], x, count)
    assert keep.shape == (3, count)
    assert (keep.diff(dim=1) > 0).all()
    assert int(keep.min()) >= 0
    assert int(keep.max()) < 8 * AREA
    assert torch.equal(keep, methods.kept(methods.METHODS[name], x, count))


def test_methods_look_at_what_they_say() -> None:
    """One token of a still clip changes in one step: by time it stays, and by space as well."""
    x = torch.zeros(1, 4, AREA, 8)
    x[..., 0] = 1
    x[0, 2, 14] = torch.eye(8)[1]
    place = 2 * AREA + 14
    for name in ("ours", "DTD alone", "EVS"):
        keep = methods.kept(methods.METHODS[name], x, AREA + 2)[0].tolist()
        assert place in keep, name
        assert set(range(AREA)) <= set(keep), name
        assert place + AREA in keep, name  # it changes back
    assert place in methods.kept(methods.spatial, x, 5)[0]
    assert place not in methods.kept(methods.uniform, x, 5)[0]


def test_a_short_run_writes_rows_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "STEPS", 8)
    out = tmp_path / "quick.csv"
    assert run.main(["--clips", "16", "--out", str(out)]) == 0
    found = rows.read(out)
    keys = {(row.method, row.dropped) for row in found}
    assert keys >= {(name, share) for name in methods.METHODS for share in run.DROPPED}
    assert keys >= {("unpruned", 0.0), ("last step", None), ("blind", None), ("majority", None)}
    whole = {(row.method, row.dropped): row for row in found if row.kind == rows.ALL}
    assert len({row.asked for row in whole.values()}) == 1
    for key, row in whole.items():
        parts = [each for each in found if (each.method, each.dropped) == key and each.kind != rows.ALL]
        assert (sum(each.right for each in parts), sum(each.asked for each in parts)) == (row.right, row.asked)
    assert {row.weights for row in found} == {rows.digest(small.WEIGHTS)}
    check_report(tmp_path, found)


def check_report(folder: Path, found: list[Any]) -> None:
    files = [folder / "README.md", folder / "card.md"]
    for path in files:
        path.write_text("<!-- benchmark:begin -->\n<!-- benchmark:end -->\n")
    options = ["--results", str(folder), "--readme", str(files[0]), "--card", str(files[1])]
    assert report.main([*options, "--check"]) == 1
    assert report.main(options) == 0
    assert report.main([*options, "--check"]) == 0
    cell = report.cell(found, "ours", 0.85, "all")
    assert all(cell in path.read_text() for path in files)


def test_weights_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--weights", str(tmp_path / "none.safetensors"), "--out", str(tmp_path / "a.csv")]) == 2
    assert capsys.readouterr().err.startswith("accuracy: ")
    assert not (tmp_path / "a.csv").exists()


def test_the_longer_run_is_what_the_tables_are_made_of(tmp_path: Path) -> None:
    def row(clips: int) -> rows.Row:
        return rows.Row("ours", 0.85, "all", 1, 2, clips, 16, *[""] * 7)

    rows.write(tmp_path / "quick.csv", [row(1)])
    assert report.load(tmp_path) == [row(1)]
    rows.write(tmp_path / "full.csv", [row(2)])
    assert report.load(tmp_path) == [row(2)]


def test_the_tables_are_what_the_rows_give_for_the_shipped_weights() -> None:
    assert report.main(["--check"]) == 0, "run python3 -m benchmarks.accuracy.report"
    found = report.load(run.RESULTS)
    assert {row.weights for row in found} == {rows.digest(small.WEIGHTS)}, "run python3 -m benchmarks.accuracy"
    assert {row.kind for row in found} == {*questions.TYPES, rows.ALL}


def test_wilsons_interval() -> None:
    low, high = measure.Score(9, 10).interval
    assert (round(low, 3), round(high, 3)) == (0.596, 0.982)
    assert measure.Score(0, 10).interval[0] == 0.0
    assert measure.Score(10, 10).interval[1] == 1.0
