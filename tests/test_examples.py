"""The examples run, and do what their headers say."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import streamprune_triton as sp
from streamprune_triton.models import tiny

CHECKOUT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((CHECKOUT / "examples").glob("*.py"))
CONFIG = sp.PruneConfig(temporal_threshold=0.9, spatial_threshold=0.6)
READ = re.compile(r"([\d.]+) s: (\d+) frames read \([\d.]+/s\), (\d+) given up, (\d+) KV rows\n> ")


def example(name: str) -> ModuleType:
    spec = spec_from_file_location(name, CHECKOUT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*command: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "HF_HUB_OFFLINE": "1"}
    words = [str(each) for each in command]
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, timeout=120)


def film(count: int, seed: int = 0) -> np.ndarray:
    """A still, coarse room with one block of noise that wanders."""
    rng = np.random.default_rng(seed)
    room = np.kron(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), np.ones((7, 7, 1), np.uint8))
    frames = np.repeat(room[None], count, axis=0)
    for n in range(count):
        frames[n, 28:56, 7 * n % 84 :][:, :28] = rng.integers(0, 256, (28, min(28, 112 - 7 * n % 84), 3))
    return frames


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    av = pytest.importorskip("av", reason="needs PyAV")
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width = 84, 112
        for image in film(60):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_each_says_how_to_run_it():
    assert [path.stem for path in EXAMPLES] == ["custom_loop", "train_two_stage", "webcam"]
    for path in EXAMPLES:
        assert f"python3 examples/{path.name}" in (ast.get_docstring(ast.parse(path.read_text())) or "")


@pytest.mark.parametrize("family", example("custom_loop").FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_custom_loop_answers_as_a_session(family: str, seed: int, capsys: pytest.CaptureFixture[str]):
    loop, (model, processor), frames = example("custom_loop"), getattr(tiny, family)(seed), film(12, seed)
    session = sp.StreamingSession(model, processor, CONFIG, sp.Memory("carriers"), fps=loop.FPS)
    session.append(frames)
    assert 0 < session.stats.tokens_kept < session.stats.tokens_in
    for question in ("What moves?", "Where is it now, and what is behind it?"):
        expected = session.ask(question, max_new_tokens=12, do_sample=False)
        assert loop.answer(model, processor, frames, question, CONFIG, most=12) == expected
        rows = int(re.search(r"(\d+) rows", capsys.readouterr().out)[1])
        asked = len(session._reader.talk.question((), question, True))
        said = len(processor.tokenizer(expected, add_special_tokens=False)["input_ids"])
        assert rows - session.stats.kv_tokens - asked in (said, said - 1)  # what ends an answer is never read


def failing(name: str, capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The one line on stderr of an example that exits with 2."""
    assert example(name).main([str(each) for each in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{name}.py: ")
    assert err.count("\n") == 1
    return err


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    av = pytest.importorskip("av", reason="needs PyAV")
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", ["custom_loop", "webcam"])
def test_a_file_that_is_no_video_is_refused_in_a_line(
    name: str, sound: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (sound.parent / "text.mp4").write_text("not a video\n" * 50)
    assert re.search("none.mp4: (no such file|FFmpeg cannot read it)", failing(name, capsys, sound.parent / "none.mp4"))
    assert "text.mp4: FFmpeg cannot read it (Invalid data" in failing(name, capsys, sound.parent / "text.mp4")
    assert "sound.wav: holds no video stream" in failing(name, capsys, sound)
    monkeypatch.setitem(sys.modules, "av", None)
    assert "needs PyAV, which is not installed: pip install av" in failing(name, capsys, sound)


def test_the_custom_loop_refuses_a_single_frame(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    video = example("custom_loop").Video
    monkeypatch.setattr(video, "__iter__", lambda self: iter([(0.0, film(1)[0])]))
    assert "clip.mp4: one frame at 2 a second: give a longer video" in failing("custom_loop", capsys, clip)


def test_the_custom_loop_from_the_command_line(clip: Path):
    done = run(CHECKOUT / "examples" / "custom_loop.py", clip, "--ask", "Why?")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"12 frames, \d+ rows in the KV cache, \d+ KiB", lines[0])
    assert len(lines) == 2


def test_the_custom_loop_without_a_clip(capsys: pytest.CaptureFixture[str]):
    example("custom_loop").main([])
    assert capsys.readouterr().out.startswith("32 frames, ")


def test_the_custom_loop_refuses_other_families(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sp.models, "load", lambda name: tiny.qwen3_vl())
    told = failing("custom_loop", capsys, "--model", "checkpoint")
    assert "--model must be of one of qwen2_vl, qwen2_5_vl" in told


@pytest.mark.parametrize("policy", ["block", "drop_oldest", "coalesce"])
def test_the_webcam_reads_or_gives_up_every_frame(clip: Path, policy: str, capsys: pytest.CaptureFixture[str]):
    options = [str(clip), "--fps", "10", "--frames", "48", "--size", "8", "--every", "1", "--max-new-tokens", "3"]
    example("webcam").main([*options, "--when-full", policy])
    told = READ.findall(capsys.readouterr().out)
    seconds, read, gone, rows = told[-1]
    assert float(seconds) == 4.7
    assert int(read) + int(gone) == 48
    assert int(rows) > 0
    assert (int(gone) == 0) or policy != "block"
    assert [float(each[0]) for each in told] == sorted(float(each[0]) for each in told)


def test_the_webcam_takes_the_rate_from_the_frames_own_times(clip: Path, capsys: pytest.CaptureFixture[str]):
    webcam = example("webcam")
    every = [(seconds, image.shape) for seconds, image in webcam.frames(str(clip), None, 4.0, False)]
    assert [seconds for seconds, _ in every[:4]] == pytest.approx([0.0, 0.3, 0.5, 0.8])
    assert len(every) == 24
    assert {shape for _, shape in every} == {(84, 112, 3)}
    repeated = [seconds for seconds, _ in webcam.frames(str(clip), None, 20.0, False)]
    assert len(repeated) == 119  # 5.9 seconds and the first


def test_the_webcam_from_the_command_line(clip: Path):
    done = run(CHECKOUT / "examples" / "webcam.py", clip, "--fps", "5", "--every", "2", "--max-new-tokens", "4")
    assert (done.returncode, done.stderr) == (0, "")
    assert READ.search(done.stdout)
    assert run(CHECKOUT / "examples" / "webcam.py", clip.with_name("none.mp4")).returncode == 2


def test_the_webcam_waits_for_an_answer_that_is_under_way(clip: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    asked: list[str] = []
    ended = threading.Event()
    webcam = example("webcam")

    def ask(queue: sp.FrameQueue, question: str, **_: object) -> str:
        asked.append(question)
        if len(asked) == 1:
            assert ended.wait(60)
        return f"answer {len(asked)}"

    def frames(*_: object) -> Iterator[tuple[float, np.ndarray]]:
        yield from ((float(n), image) for n, image in enumerate(film(4)))
        ended.set()

    monkeypatch.setattr(sp.FrameQueue, "ask", ask)
    monkeypatch.setattr(webcam, "frames", frames)
    assert webcam.main([str(clip), "--every", "2"]) == 0
    assert re.findall(r"> (.+)\n", capsys.readouterr().out) == ["answer 1", "answer 2"]
