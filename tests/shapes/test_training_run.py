"""The training of the small model, run for a moment."""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.accuracy import curriculum, train
from benchmarks.accuracy.records import Records
from streamprune_triton.shapes import model as small

SIZES = ("--width", "32", "--layers", "4", "--tower-width", "32", "--tower-layers", "1")


def run(monkeypatch: pytest.MonkeyPatch, out: Path, tower: int, text: int) -> train.Run:
    steps = ["--tower-steps", str(tower), "--text-steps", str(text), "--rows", "300", "--validation", "16"]
    monkeypatch.setattr(sys, "argv", ["train", "--out", str(out), *steps, *SIZES])
    made = train.Run(train.arguments())
    made.train()
    return made


def inner(made: train.Run) -> torch.Tensor:
    return made.net.model.model.language_model.layers[0].mlp.up_proj.weight.detach().clone()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curriculum, "STAGES", ((0.0, {2: 1.0}),))
    monkeypatch.setattr(train, "REPORT", 1)


def test_a_run_trains_tower_and_text_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(monkeypatch, tmp_path, 1, 1)
    again = run(monkeypatch, tmp_path, 1, 2)
    assert (first.steps, again.steps) == ({"tower": 1, "text": 1}, {"tower": 1, "text": 2})
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    told = [(each["stage"], each["step"]) for each in log if "stage" in each]
    assert told == [("tower", 1), ("text", 1), ("text", 2)]
    assert {each["kept"] for each in log if "kept" in each} == {1.0, 0.15}
    assert again.records.seconds > first.records.seconds
    assert not torch.equal(inner(first), inner(again))
    saved = small.load(tmp_path / "model.safetensors")[0].state_dict()
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(saved[name], again.average.weights[name], rtol=2**-7, atol=1e-3)


def test_a_seed_gives_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (run(monkeypatch, tmp_path / name, 1, 1) for name in "ab")
    assert torch.equal(inner(one), inner(two))


def test_weights_do_not_depend_on_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation draws random numbers, so it must come at the same steps on a slow machine."""
    one = run(monkeypatch, tmp_path / "fast", 1, 3)
    hours = itertools.count(0, 3600)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(hours)))
    assert torch.equal(inner(one), inner(run(monkeypatch, tmp_path / "slow", 1, 3)))


def test_a_killed_run_comes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "VALIDATE", 2)
    whole = run(monkeypatch, tmp_path / "whole", 1, 4)
    step, taken = train.Run.text_step, itertools.count()

    def killed(self: train.Run) -> None:
        if next(taken) == 2:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(train.Run, "text_step", killed)
    monkeypatch.setattr(Records, "due", lambda self: True)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tmp_path / "killed", 1, 4)
    assert torch.equal(inner(run(monkeypatch, tmp_path / "killed", 1, 4)), inner(whole))
