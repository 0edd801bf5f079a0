"""Samples from files and from generated clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamprune_triton.shapes.clip import ShapesClip
from streamprune_triton.shapes.world import SIDE, STEP
from streamprune_triton.training import Shapes, Videos

GOOD = {"video": "clip.mp4", "question": "What moves?", "answer": "a block"}


def written(folder: Path, *lines: Any) -> Path:
    path = folder / "data.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Three seconds at 4 frames a second, the red of frame n about 20 n."""
    av = pytest.importorskip("av", reason="needs PyAV")
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.height, stream.width = 48, 64
        for n in range(12):
            image = np.full((48, 64, 3), (20 * n, 0, 0), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_frames_are_those_up_to_the_question(clip: Path, tmp_path: Path):
    data = Videos(written(tmp_path, GOOD, {**GOOD, "at": 1.5}, " ", {**GOOD, "at": 0}), fps=2.0)
    assert len(data) == 3
    assert [len(data[n].frames) for n in range(3)] == [6, 4, 1]
    told = data[1]
    assert (told.question, told.answer, told.fps) == ("What moves?", "a block", 2.0)
    assert told.frames.dtype == np.uint8
    assert np.allclose(told.frames[:, 10, 10, 0], [0, 40, 80, 120], atol=12)


def test_every_tenth_video_is_kept_back_with_all_its_questions(tmp_path: Path):
    for n in range(20):
        (tmp_path / f"{n}.mp4").touch()
    lines = [{**GOOD, "video": f"{n % 20}.mp4", "question": str(n)} for n in range(40)]
    train, held = Videos(written(tmp_path, *lines)).split()
    assert [line.question for line in held.lines] == ["9", "19", "29", "39"]
    assert len(train) == 36
    few = Videos(written(tmp_path, *lines[:3]))
    assert [len(part) for part in few.split()] == [2, 1]
    with pytest.raises(ValueError, match="names one video only"):
        Videos(written(tmp_path, *lines[:1])).split()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ([1], "line 2 must hold an object, got list"),
        ({**GOOD, "answer": 3}, "line 2: 'answer' must be a text, got 3"),
        ({**GOOD, "question": ""}, "line 2: 'question' must be a text"),
        ({**GOOD, "at": -1}, "line 2: 'at' must be seconds of at least 0, got -1"),
        ({**GOOD, "at": "1"}, "line 2: 'at' must be seconds"),
        ({**GOOD, "video": "none.mp4"}, r"line 2: .*none\.mp4 is no file"),
    ],
)
def test_bad_lines(tmp_path: Path, line: Any, message: str):
    (tmp_path / "clip.mp4").touch()
    with pytest.raises((ValueError, OSError), match=message):
        Videos(written(tmp_path, GOOD, line))


def test_bad_files(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        Videos(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="holds no line"):
        Videos(written(tmp_path, ""))
    with pytest.raises(ValueError, match="fps must be"):
        Videos(written(tmp_path, GOOD), fps=0)


def test_shapes_are_the_same_for_the_same_seed():
    data = Shapes(6, seed=3, steps=4)
    for n in range(6):
        ours, again = data[n], Shapes(6, seed=3, steps=4)[n]
        assert np.array_equal(ours.frames, again.frames)
        assert (ours.question, ours.answer) == (again.question, again.answer)
        assert ours.frames.shape[1:] == (SIDE, SIDE, 3)
        assert len(ours.frames) in (2, 4, 6, 8)
    assert (
        len({data[n].frames.tobytes() for n in range(6)} | {Shapes(6, seed=4)[n].frames.tobytes() for n in range(6)})
        == 12
    )
    with pytest.raises(IndexError):
        data[6]


def test_a_question_about_shapes_is_asked_where_its_frames_end(monkeypatch: pytest.MonkeyPatch):
    asked, ask = [], ShapesClip.ask
    monkeypatch.setattr(ShapesClip, "ask", lambda clip, step: asked.append((clip, step)) or ask(clip, step))
    data = Shapes(6, seed=3, steps=4)
    told = [data[n] for n in range(6)]
    assert len({step for _, step in asked}) > 1
    for sample, (clip, step) in zip(told, asked, strict=True):
        frames = [image for _, image in clip]
        assert len(frames) == 4 * STEP
        assert np.array_equal(sample.frames, frames[: (step + 1) * STEP])
        assert ask(clip, step)[sample.question] == sample.answer
    with pytest.raises(IndexError):
        data[-1]
