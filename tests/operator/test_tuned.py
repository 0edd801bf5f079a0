"""Launch parameters from a file: which entry is taken, what a bad file does, and that no sum depends on the size."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from features import INTERPRETED, field
from tolerances import same_bits

import streamprune_triton as sp

tuned = pytest.importorskip("streamprune_triton.kernels.tuned", reason="needs Triton")
CPU = torch.device("cpu")
BF16 = torch.bfloat16
SIZES = [{"tokens": 100, "parts": 1, "frames": 1}, {"tokens": 10000, "parts": 2, "frames": 4}]
ENTRY = {"dtype": "bfloat16", "d": 3584, "block_d": 64, "slice": 256, "warps": 2, "sizes": SIZES}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tuned, "FOLDER", tmp_path)
    tuned.forget()
    yield tmp_path
    tuned.forget()


def write(folder, *entries: dict) -> None:
    text = json.dumps({"gpu": "cpu", "provenance": {}, "entries": list(entries)})
    (folder / "cpu.json").write_text(text, encoding="utf-8")


def test_the_nearest_entry_is_taken_and_the_nearest_size(folder):
    write(folder, ENTRY, ENTRY | {"d": 896, "slice": 128}, ENTRY | {"dtype": "float32", "block_d": 32})
    assert tuned.order(CPU, BF16, 3584) == tuned.Order(64, 256, 2)
    assert tuned.order(CPU, BF16, 1024) == tuned.Order(64, 128, 2)
    assert tuned.order(CPU, BF16, 100) == tuned.Order(64, 128, 2)
    assert tuned.order(CPU, BF16, 8) == tuned.Order.default(8, 2)  # narrower than the block
    assert tuned.order(CPU, torch.float32, 4096).block_d == 32
    assert tuned.order(CPU, torch.float16, 3584) == tuned.Order.default(3584, 2)
    assert tuned.free(CPU, BF16, 3584, 300) == tuned.Free(1, 1)
    assert tuned.free(CPU, BF16, 3584, 3000) == tuned.Free(2, 4)
    assert tuned.free(CPU, BF16, 3584, 0) == tuned.Free(1, 1)


def test_without_a_file_defaults_are_used_and_said_once(caplog):
    with caplog.at_level(logging.INFO, logger="streamprune_triton"):
        for d in (896, 3584, 5000):
            assert tuned.order(CPU, BF16, d) == tuned.Order.default(d, 2)
            assert tuned.free(CPU, BF16, d, 7) == tuned.Free.default(d)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "heuristic defaults" in caplog.text


BAD = {
    "no JSON": "{",
    "another file": json.dumps({"name": "x"}),
    "a list": "[1, 2]",
    "no sizes": json.dumps({"entries": [ENTRY | {"sizes": []}]}),
    "an unknown dtype": json.dumps({"entries": [ENTRY | {"dtype": "nine"}]}),
    "a slice between blocks": json.dumps({"entries": [ENTRY | {"slice": 100}]}),
    "half a warp": json.dumps({"entries": [ENTRY | {"warps": 0.5}]}),
    "three warps": json.dumps({"entries": [ENTRY | {"warps": 3}]}),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_bad_file_is_said_in_a_line_and_not_used(text, folder, caplog):
    (folder / "cpu.json").write_text(text, encoding="utf-8")
    with caplog.at_level(logging.INFO, logger="streamprune_triton"):
        assert tuned.order(CPU, BF16, 3584) == tuned.Order.default(3584, 2)
        assert tuned.free(CPU, BF16, 3584, 7) == tuned.Free.default(3584)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "cpu.json is not used" in caplog.text
    assert "\n" not in record.getMessage()


@pytest.mark.skipif(not INTERPRETED, reason="runs the kernels on a CPU: TRITON_INTERPRET=1 before Python")
@pytest.mark.parametrize("from_file", [False, True])
def test_triton_gives_a_clip_and_its_frames_the_same_bits_whether_programs_walk_or_not(from_file, folder, monkeypatch):
    """A long call adds up a group of tiles in a program, a short one where the sums are read: the same bits."""
    from streamprune_triton.kernels import launch

    if from_file:
        few = [{"tokens": 200, "parts": 1, "frames": 1}, {"tokens": 2000, "parts": 3, "frames": 8}]
        write(folder, ENTRY | {"dtype": "float32", "d": 48, "block_d": 16, "slice": 16, "warps": 4, "sizes": few})
    walked = []
    honest = launch._groups
    monkeypatch.setattr(launch, "_groups", lambda *args: walked.append(honest(*args)) or walked[-1])
    x = field((7, 9, 20, 48), redundancy=0.7)
    whole = sp.prune(x, backend="triton")
    pruner = sp.StreamPruner(backend="triton")
    parts = [pruner(frame) for frame in x.split(1)]
    assert {per_program for per_program, _ in walked} == {1, launch.GROUP}
    assert same_bits(torch.cat([part.carriers for part in parts]), whole.carriers)
    assert same_bits(torch.cat([part.temporal for part in parts]), whole.temporal)
    assert same_bits(torch.cat([part.spatial for part in parts]), whole.spatial)
    assert same_bits(parts[-1].state.reference, whole.state.reference)
