"""The two-stage recipe from the command line."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import unmodified
from safetensors.torch import load_file
from test_learner import checkpoint

from streamprune_triton import models
from streamprune_triton.shapes import model as small

pytestmark = pytest.mark.skipif(
    find_spec("peft") is None or find_spec("accelerate") is None, reason="peft and accelerate are not installed"
)
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_two_stage.py"
QUICK = ("--questions", "1", "--batch", "2", "--rank", "2", "--device", "cpu", "--log-every", "1")
SHARES = re.compile(
    r"^(before|after stage [12]): +([\d.]+) % carriers only, +([\d.]+) % carriers behind kept tokens$", re.M
)


@pytest.fixture
def example() -> ModuleType:
    spec = spec_from_file_location("train_two_stage", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def random_numbers():
    with torch.random.fork_rng(devices=[]):
        yield


def learned(out: Path) -> dict[str, torch.Tensor]:
    return {
        f"{n} {name}": value
        for n in (1, 2)
        for name, value in load_file(out / f"stage{n}/done/model.safetensors").items()
    }


def test_both_stages_on_the_small_model(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert (
        example.main(["--out", str(tmp_path / "run"), *QUICK, "--steps", "2", "2", "--eval-every", "2", "--merge"]) == 0
    )
    told = capsys.readouterr().out
    assert [name for name, *_ in SHARES.findall(told)] == ["before", "after stage 1", "after stage 2"]
    assert len(re.findall("'eval_exact_match'", told)) == 2
    first, second = (load_file(tmp_path / f"run/stage{n}/done/model.safetensors") for n in (1, 2))
    assert {"visual" in name for name in first} == {False, True}
    assert {"visual" in name for name in second} == {False}
    assert all(not torch.equal(second[name], first[name]) for name in second)
    model, _ = small.load(tmp_path / "run/merged/model.safetensors")
    shipped = small.load(small.PLAIN)[0].state_dict()
    assert {name for name, value in model.state_dict().items() if not torch.equal(value, shipped[name])}
    assert (tmp_path / "run/stage2/adapter/adapter_config.json").is_file()


@pytest.mark.filterwarnings("ignore:mtime may not be reliable")  # checkpoints are less than a second apart here
@pytest.mark.parametrize("full", [(), ("--full",)])
def test_killed_and_resumed_is_the_same_to_the_bit(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: tuple[str, ...]
):
    """With pruning that is drawn, and killed in either stage, between checkpoints."""
    options = [*QUICK, "--steps", "3", "3", "--save-every", "2", "--prune-augment", "budget:0.1,0.9", *full]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert example.main(["--out", str(whole), *options]) == 0
    step, left = example.AnswerTrainer.training_step, [0]

    def killed(self: Any, *args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(example.AnswerTrainer, "training_step", killed)
    for number in range(3):
        left[0] = (6, 8, -1)[number]  # forwards, two a step
        assert example.main(["--out", str(parts), *options, *["--resume"][:number]]) == (130, 130, 0)[number]
    assert (parts / "stage2/checkpoint-2").is_dir()
    ours, expected = learned(parts), learned(whole)
    assert ours.keys() == expected.keys()
    assert [name for name in ours if not torch.equal(ours[name], expected[name])] == []


def test_any_checkpoint_on_any_videos(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    av = pytest.importorskip("av", reason="needs PyAV")
    for n in range(2):
        with av.open(str(tmp_path / f"{n}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=1)
            stream.height, stream.width = 84, 112
            for image in unmodified.film(4, seed=n):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    lines = [{"video": f"{n}.mp4", "question": "What moves?", "answer": "a block", "at": 2 + n} for n in range(2)]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, lines)))
    model, processor = unmodified.build(0, "qwen3_vl")
    source = checkpoint(model, processor, tmp_path / "checkpoint")
    options = ["--model", str(source), "--data", str(data), "--out", str(tmp_path / "run"), *QUICK, "--steps", "1", "1"]
    assert example.main([*options, "--bf16", "--checkpoint-activations", "--full", "--lr", "1e-2"]) == 0
    assert len(SHARES.findall(capsys.readouterr().out)) == 3
    again, _ = models.load(tmp_path / "run/merged")
    assert {weight.dtype for weight in again.parameters()} == {torch.bfloat16}
    before = models.load(source)[0].state_dict()
    changed = [name for name, value in again.state_dict().items() if (value - before[name]).abs().max() > 4e-3]
    assert any("embed_tokens" in name for name in changed)
    assert any("layers" in name for name in changed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "1"], "--steps"),
        (["--data", "x.jsonl"], "--data needs --model"),
        (["--eval", "x.jsonl"], "--eval needs --data"),
        (["--model", "./none"], "'./none' is not a folder"),
        (["--prune-augment", "dtd"], "threshold:LOW,HIGH"),
        (["--config", "carrier=none"], "carrier"),
        (["--rank", "0"], "--rank"),
    ],
)
def test_bad_options_are_told_in_one_line(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
):
    assert example.main(["--out", str(tmp_path), *options, "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train_two_stage.py: ")
    assert message in line
    assert not list(tmp_path.iterdir())


def test_an_earlier_run_is_not_written_over(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "stage1").mkdir()
    assert example.main(["--out", str(tmp_path)]) == 2
    assert "--resume" in capsys.readouterr().err


def test_help_names_the_stages(example: ModuleType, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as done:
        example.main(["--help"])
    assert done.value.code == 0
    assert "Stage 2" in capsys.readouterr().out
