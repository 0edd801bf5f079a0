"""A short piece of the endless run of `benchmarks.soak`, and that its checks would notice."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import soak

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")


@pytest.fixture(scope="module")
def done() -> tuple[list[soak.Row], int]:
    rows, faults = soak.run(1300)
    assert faults == []
    return rows, soak.most_rows(20)


def test_everything_happens_in_a_short_run(done):
    rows, _ = done
    last = rows[-1]
    assert last.frames == 1300
    assert min(last.answers, last.forks, last.saves) > 1
    assert last.compactions >= 1
    assert last.different == 0
    assert last.carriers == soak.MEMORY.max_carriers


def test_the_same_seed_is_the_same_run(done):
    rows, _ = soak.run(150)
    again, _ = soak.run(150)

    def timeless(rows: list[soak.Row]) -> list[soak.Row]:  # a file holds the digits of the seconds spent
        return [replace(row, seconds=0.0, resident=0, file=0, rest=0) for row in rows]

    assert timeless(rows) == timeless(again)


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"different": 1}, "answers differ"),
        ({"rows": 10_000}, "10000 rows are held"),
        ({"positions": soak.POSITIONS + 1}, f"a row stands at position {soak.POSITIONS}"),
        ({"rest": 10**6}, "files are from"),
        ({"resident": 10**10}, "resident memory is from"),
    ],
)
def test_each_fault_is_found(done, wrong: dict[str, Any], fault: str):
    rows, _ = done
    found = soak.faults([*rows, replace(rows[-1], **wrong)], opening=20)
    assert len(found) == 1
    assert fault in found[0]


def test_a_restored_run_that_goes_astray_is_noticed(monkeypatch: pytest.MonkeyPatch):
    load = soak.sp.StreamingSession.load

    def astray(self: Any, path: Path) -> None:
        load(self, path)
        self.append(soak.np.zeros((8, soak.SIDE, soak.SIDE, 3), soak.np.uint8))

    monkeypatch.setattr(soak.sp.StreamingSession, "load", astray)
    _, faults = soak.run(150)
    assert any("answers differ" in fault for fault in faults)


def test_the_command_writes_rows_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("matplotlib", reason="draws the plot")
    assert soak.main(["--frames", "60", "--out", str(tmp_path / "new")]) in (0, 1)  # too short to be warm
    with (tmp_path / "new" / "soak.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["frames"] == "60"
    assert (tmp_path / "new" / "soak.png").read_bytes()[:4] == b"\x89PNG"
    out, err = capsys.readouterr()
    assert out.startswith("60 frames in ")
    assert "60 frames" in err
