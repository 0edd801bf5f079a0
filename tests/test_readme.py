"""What the README shows runs as it stands."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from streamprune_triton.models.processor import FrameProcessor

CHECKOUT = Path(__file__).resolve().parents[1]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def run(snippet: str, names: dict) -> dict:
    exec(compile(snippet, "README.md", "exec"), names)
    return names


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_snippets():
    assert len(SNIPPETS) == 4


def test_the_pruner(capsys):
    run(SNIPPETS[0], {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4
    assert all("99% dropped" in line for line in printed[1:])


def test_the_drop_ins():
    names = run(SNIPPETS[1], {})
    assert names["keep"].shape == (8, 14, 14)
    assert int(names["mask"].sum()) == names["kept"] == 392


def test_the_session(here: Path):
    assert isinstance(run(SNIPPETS[2], {})["answer"], str)
    assert (here / "stream.safetensors").is_file()


def test_generate(capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(CHECKOUT / "tests" / "models")])
    import unmodified

    import streamprune_triton as sp

    model, processor = unmodified.build()
    if isinstance(processor, FrameProcessor):  # transformers' own needs torchvision
        made = unmodified.inputs(model, processor, np.zeros((8, 120, 160, 3), np.uint8), "What moves?", 2.0)
        processor = SimpleNamespace(apply_chat_template=lambda *_, **__: made)
    names = run(SNIPPETS[3], {"np": np, "sp": sp, "model": model, "processor": processor})
    assert names["output"].shape[1] > names["inputs"]["input_ids"].shape[1]
    assert re.fullmatch(r"\d+% of the video tokens dropped\n", capsys.readouterr().out)


def test_files_it_names_exist():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (CHECKOUT / target).is_file(), target


def test_the_table_of_models_is_of_the_families_that_there_are():
    """And each column of a test that there is, over all of them."""
    from streamprune_triton.models import _FAMILIES, tiny

    (table,) = re.findall(r"\| `model_type` \|.*?\n\n", README, flags=re.DOTALL)
    *families, tests = table.strip().splitlines()[2:]
    named = [name for row in families for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(_FAMILIES) == sorted(tiny.NAMES)
    columns = re.findall(r"`(\w+)`", "|".join(tests.split("|")[2:]))
    assert len(columns) == len(table.splitlines()[0].split("|")) - 3
    for name in columns:
        text = (CHECKOUT / "tests" / "models" / f"{name}.py").read_text(encoding="utf-8")
        assert "tiny.NAMES" in text or "STREAMED" in text, name


def test_the_loss_of_a_sample():
    """As the section on training has it."""
    import numpy as np

    import streamprune_triton as sp

    call = 'sp.training.Learner(model, processor, config)([sp.training.Sample(frames, question, answer, fps)])["loss"]'
    assert call in README
    model, processor = sp.models.tiny.qwen2_5_vl()
    names = {"sp": sp, "model": model, "processor": processor, "config": sp.PruneConfig()}
    names |= {"frames": np.zeros((4, 56, 56, 3), np.uint8), "question": "What?", "answer": "Nothing.", "fps": 1.0}
    assert eval(call, names).requires_grad
