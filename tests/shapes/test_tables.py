"""What the tables ask for, without a language model: every answer is right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from benchmarks.accuracy.batch import Batch
from benchmarks.accuracy.cell import Cell
from benchmarks.accuracy.exam import Exam, exam
from benchmarks.accuracy.methods import METHODS
from benchmarks.accuracy.methods.masks import MASKS
from benchmarks.accuracy.network import Network
from benchmarks.accuracy.tables import TABLES
from streamprune_triton.shapes import model as small

STEPS = 8
NAMES = ("ratios", "masks", "content", "thresholds", "budgets", "reference", "neighbors", "keyframes")


@pytest.fixture(scope="module")
def asked() -> Exam:
    return exam(Network(*small.build(tower_width=16, tower_layers=1)).eval(), 16, STEPS)


@pytest.fixture
def cells(asked: Exam, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Cell]]:
    def right(net: Network, batch: Batch, keep: torch.Tensor) -> torch.Tensor:
        return batch.answer >= 0

    monkeypatch.setattr("benchmarks.accuracy.exam.correct", right)
    monkeypatch.setattr("benchmarks.accuracy.baselines.correct", right)
    return lambda name: list(TABLES[name](asked))


@pytest.mark.parametrize("name", NAMES)
def test_cells_have_names_of_their_own_and_a_setting_the_same_questions(
    name: str, cells: Callable[[str], list[Cell]]
) -> None:
    found = cells(name)
    assert len({(cell.method, cell.setting) for cell in found}) == len(found)
    first: dict[str, Cell] = {}
    for cell in found:
        same = first.setdefault(cell.setting, cell).marks
        assert np.array_equal(cell.marks.kind, same.kind)
        assert np.array_equal(cell.marks.asked, same.asked)
        assert cell.dropped is None or 0 <= cell.dropped < 1


def test_settings_of_one_budget(cells: Callable[[str], list[Cell]]) -> None:
    for name, methods in (("ratios", [*METHODS, "unpruned"]), ("masks", list(MASKS))):
        found = [cell for cell in cells(name) if cell.setting == "92%"]
        assert [cell.method for cell in found] == methods
        assert {cell.dropped for cell in found if cell.method != "unpruned"} == {0.92}
    by_setting: dict[str, set[float | None]] = {}
    for cell in cells("keyframes"):
        by_setting.setdefault(cell.setting, set()).add(cell.dropped)
    assert [len(shares) for shares in by_setting.values()] == [1, 1]


def test_what_is_compared_at_the_same_share_drops_the_same(cells: Callable[[str], list[Cell]]) -> None:
    dropped = {(cell.setting, cell.method): cell.dropped for name in ("reference", "neighbors") for cell in cells(name)}
    for (setting, method), share in dropped.items():
        other = {"previous, same share": "last kept", "grid, survivors' share": "survivors"}.get(method)
        if other:
            assert share == pytest.approx(dropped[setting, other], abs=0.02), setting
    for setting in {setting for setting, _ in dropped if "tau_s" in setting}:
        survivors, grid = dropped[setting, "survivors"], dropped[setting, "grid"]
        assert survivors is not None
        assert grid is not None
        assert survivors <= grid


def test_thresholds_drop_less_as_they_rise(cells: Callable[[str], list[Cell]]) -> None:
    shares = np.array([cell.dropped for cell in cells("thresholds")]).reshape(7, 7)
    assert (np.diff(shares, axis=0) <= 0).all()
    assert (np.diff(shares, axis=1) <= 0).all()
    assert shares[0, 0] > shares[-1, -1]
