"""The command line: exit codes, one line for an error, and the demo as a user runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import streamprune_triton as sp
from streamprune_triton.cli import doctor, main, options, progress, selfcheck, summary
from streamprune_triton.cli.work import printable
from streamprune_triton.streaming.stats import Stats
from streamprune_triton.video import Video

pytest.importorskip("av", reason="needs PyAV")
pytest.importorskip("matplotlib", reason="needs matplotlib")

from clips import write_clip


class FakeSession:
    """Block means of the pixels in place of a vision tower; two raw frames make a step, as in Qwen2.5-VL."""

    fps = 1.0
    _reader = SimpleNamespace(
        talk=SimpleNamespace(opening=range(10)), adapter=SimpleNamespace(around=lambda step, fps: ([], []))
    )

    def __init__(self, config: sp.PruneConfig) -> None:
        self.pruner = sp.StreamPruner(config, backend="torch")
        self.stats = Stats(seconds={"vision": 0.5, "prune": 0.25})
        self.appended: list[np.ndarray] = []

    def append(self, frames: np.ndarray) -> sp.PruneResult | None:
        assert frames.shape[0] == 1
        assert frames.dtype == np.uint8
        self.appended.append(frames[0])
        self.stats.frames_in += 1
        if self.stats.frames_in % 2:
            return None
        _, height, width, _ = frames.shape
        x = torch.from_numpy(frames.astype(np.float32) - 127)
        result = self.pruner(x.reshape(1, height // 16, 16, width // 16, 16, 3).mean((2, 4)))
        self.stats.steps += 1
        self.stats.tokens_in += result.keep.numel()
        self.stats.tokens_kept += int(result.counts.sum())
        self.stats.kv_tokens = self.stats.tokens_kept + 10
        self.stats.kv_bytes = 100 * self.stats.kv_tokens
        return result

    def ask(self, question: str, max_new_tokens: int) -> str:
        return f"{question} in {max_new_tokens}"


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[FakeSession]:
    from streamprune_triton.cli import work

    made: list[FakeSession] = []

    def make(job: work.Job) -> FakeSession:
        made.append(FakeSession(job.config))
        return made[-1]

    monkeypatch.setattr(work, "open_session", make)
    return made


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", list(range(8)), Fraction(1, 2))


def failing(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The one line on stderr of a command that exits with 2."""
    assert main([str(each) for each in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("streamprune: ")
    assert err.count("\n") == 1
    return err


def test_video_with_answers_table_and_report(
    sessions: list[FakeSession], clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["video", clip, "--ask", "what?", "--ask", "who?", "--max-new-tokens", 7, "--report", out]
    assert main([str(each) for each in argv]) == 0
    text = capsys.readouterr().out
    for line in ("> what?\nwhat? in 7\n", "> who?\nwho? in 7\n", "its answers mean nothing", f"report: {out}"):
        assert line in text
    table = dict(line.strip().split("  ", 1) for line in text.splitlines() if line.startswith("  "))
    assert table["raw frames"].strip() == "4"
    assert table["temporal steps"].strip() == "2"
    assert table["visual tokens in"].strip() == "24"
    assert table["prune, ms a step"].strip() == "125.00"
    assert table["KV cache unpruned"].strip() == "3.3 KiB  (34 tokens)"
    assert {each.name for each in out.iterdir()} == {"report.html", "frames.png", "shares.png"}


def test_packets_that_do_not_decode_are_told(
    sessions: list[FakeSession], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_clip(tmp_path / "clip.mp4", list(range(20)), Fraction(1, 2))
    assert main(["video", str(path)]) == 0
    assert "broken packets" not in capsys.readouterr().out
    data = bytearray(path.read_bytes())
    start, length = data.index(b"mdat"), len(data)
    data[start + length // 3 : start + length // 2] = bytes([255]) * (start + length // 2 - start - length // 3)
    path.write_bytes(data)
    assert main(["video", str(path)]) == 0
    with Video(path) as video:
        list(video)
    assert video.skipped > 0
    assert re.search(rf"raw frames +\d+\n +broken packets +{video.skipped}\n", capsys.readouterr().out)


def test_only_a_report_needs_what_draws_it(
    sessions: list[FakeSession],
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("matplotlib", "matplotlib.figure", "PIL", "PIL.Image"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["video", str(clip)]) == 0
    capsys.readouterr()
    assert "the report needs" in failing(capsys, "video", clip, "--report", tmp_path / "out")


def test_odd_number_of_frames_repeats_the_last(
    sessions: list[FakeSession], clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["video", str(clip), "--fps", "0.8"]) == 0
    assert re.search(r"raw frames +3\n", capsys.readouterr().out)
    frames = sessions[0].appended
    assert len(frames) == 4
    assert np.array_equal(frames[-1], frames[-2])


def test_rate_and_config_reach_the_session(sessions: list[FakeSession], clip: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"keep_tokens": 3, "carrier": None}))
    assert main(["video", str(clip), "--fps", "2", "--config", str(config)]) == 0
    assert sessions[0].stats.frames_in == 8
    assert sessions[0].stats.tokens_kept == 4 * 3
    assert sessions[0].pruner.config.carrier is None


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("temporal_threshold=0.5", {"temporal_threshold": 0.5}),
        ("mask=rows, max_tokens=10", {"mask": "rows", "max_tokens": 10}),
        ("mask=none,carrier=None", {"mask": None, "carrier": None}),
        ("spatial_threshold=-1,reference=last_kept", {"spatial_threshold": -1, "reference": "last_kept"}),
    ],
)
def test_config_pairs(text: str, values: dict) -> None:
    assert options.prune_config(text, sp.PruneConfig()) == sp.PruneConfig(**values)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("foo=1", "no field 'foo'; the fields are temporal_threshold"),
        ("temporal_threshold=1.5", "temporal_threshold must be in [-1, 1]"),
        ("temporal_threshold=high", "temporal_threshold must be a number"),
        ("temporal_threshold=NaN", "temporal_threshold must be in [-1, 1]"),
        ("mask=stripes", "mask must be one of"),
        ("keep_tokens=-1", "keep_tokens must be at least 0"),
        ("mask=", "expected key=value"),
        ("=3", "expected key=value"),
        ("mask=rows,mask=all", "mask is given twice"),
        ("keep_tokens=1,max_tokens=1", "give one of the two"),
        ("none.json", "no such file"),
    ],
)
def test_bad_config(config: str, message: str, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in failing(capsys, "video", clip, "--config", config)


@pytest.mark.parametrize(("content", "message"), [("{", "is not JSON"), ("[1]", "must hold one JSON object")])
def test_bad_config_file(
    content: str, message: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(content)
    assert message in failing(capsys, "video", clip, "--config", tmp_path / "config.json")


def test_bad_files_and_values(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.mp4").write_text("not a video\n" * 50)
    assert "no such file" in failing(capsys, "video", tmp_path / "none.mp4")
    assert "a directory" in failing(capsys, "video", tmp_path)
    assert "give a video file" in failing(capsys, "video", tmp_path / "text.mp4")
    assert "no such file" in failing(capsys, "demo", tmp_path / "none.mp4")
    url = "https://example.com/clip.mp4"
    assert failing(capsys, "video", url) == f"streamprune: {url}: URLs are not opened: download it and give the file\n"
    assert "fps must be a number above 0" in failing(capsys, "video", clip, "--fps", 0)
    assert "fps must be a number above 0" in failing(capsys, "demo", "--fps", "nan")
    assert "--fps is for a FILE" in failing(capsys, "demo", "--fps", "3")
    assert "must be a number, got 'fast'" in failing(capsys, "video", clip, "--fps", "fast")
    assert "whole number of at least 1" in failing(capsys, "video", clip, "--max-new-tokens", 0)
    assert "give a directory" in failing(capsys, "video", clip, "--report", clip)
    assert "--device: 'warp' cannot be used here" in failing(capsys, "video", clip, "--device", "warp")
    assert "'meta' cannot be used here (must be of cpu, cuda, mps" in failing(capsys, "video", clip, "--device", "meta")
    assert "the following arguments are required: FILE" in failing(capsys, "video")
    assert "required: COMMAND" in failing(capsys)
    assert "invalid choice: 'fly'" in failing(capsys, "fly")


TINY = sp.PruneConfig(temporal_threshold=0.8, spatial_threshold=0.8)
EVERYTHING = sp.PruneConfig(temporal_threshold=None, spatial_threshold=None)


def watched(
    path: Path, model: str, memory: sp.Memory, *earlier: Path, config: sp.PruneConfig = TINY
) -> sp.StreamingSession:
    """A session told directly what the command line is told, two frames a second."""
    session = sp.StreamingSession(*getattr(sp.models.tiny, model)(), config, memory, fps=2.0)
    for each in (*earlier, path):
        for _, frame in Video(each, 2.0):
            session.append(frame[None])
    return session


@pytest.mark.parametrize(
    ("argv", "memory", "model"),
    [
        (["--max-tokens", "10"], sp.Memory("tokens", max_tokens=10), "qwen2_5_vl"),
        (["--memory", "carriers", "--max-carriers", "3"], sp.Memory("carriers", max_carriers=3), "qwen2_5_vl"),
        (["--memory=hybrid", "--max-carriers=3", "--recent-frames=2"], sp.Memory("hybrid", 3, 2), "llava_onevision"),
        (["--memory", "hybrid", "--max-tokens", "5"], sp.Memory("hybrid", max_tokens=5), "qwen2_vl"),
        (["--memory", "hybrid", "--recent-frames", "0"], sp.Memory("hybrid", recent_frames=0), "qwen3_vl"),
        (["--memory", "carriers"], sp.Memory("carriers"), "internvl"),
    ],
)
def test_memory(argv: list[str], memory: sp.Memory, model: str, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = watched(clip, model, memory)
    named = [] if model == "qwen2_5_vl" else ["--model", f"tiny:{model}"]
    assert main(["video", str(clip), "--fps=2", "--ask=what?", "--max-new-tokens=5", *named, *argv]) == 0
    text = capsys.readouterr().out
    table = dict(line.strip().split("  ", 1) for line in text.splitlines() if line.startswith("  "))
    size, held = summary.readable_bytes(session.stats.kv_bytes), session.stats.kv_tokens
    assert table["KV cache"].strip() == f"{size}  ({held:,} tokens)"
    unpruned = watched(clip, model, sp.Memory(), config=EVERYTHING).stats
    assert table["KV cache unpruned"].strip().endswith(f"  ({unpruned.kv_tokens} tokens)")
    assert table.get("carriers held", "0").strip() == str(session.stats.carriers)
    assert ("carriers held" in table) == memory.carriers
    assert f"> what?\n{printable(session.ask('what?', max_new_tokens=5))}\n" in text
    assert "its answers mean nothing" in text


@pytest.mark.parametrize("count", [7, 8])
def test_a_saved_session_goes_on(count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where it was saved in the middle of a step."""
    first = write_clip(tmp_path / "first.mp4", list(range(count)), Fraction(1, 2))
    second = write_clip(tmp_path / "second.mp4", list(range(5)), Fraction(1, 2))
    memory, options = sp.Memory("carriers", max_carriers=5), ["--fps=2", "--memory=carriers", "--max-carriers=5"]
    for argv in ([first, "--save"], [second, "--resume", tmp_path / "1", "--save"]):
        assert main(["video", *map(str, argv), str(tmp_path / str(len(argv) // 2)), *options]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"raw frames +{count + 5}\n", out)
    assert out.count("decode, ms a step") == 1
    session = watched(second, "qwen2_5_vl", memory, first)
    loaded = sp.StreamingSession(*sp.models.tiny.qwen2_5_vl(), session.config, memory, fps=2.0)
    loaded.load(tmp_path / "2")
    assert loaded.stats.frames_in == session.stats.frames_in == count + 5
    assert loaded.ask("what?", max_new_tokens=8) == session.ask("what?", max_new_tokens=8)
    wrong = failing(capsys, "video", second, "--resume", tmp_path / "1")
    assert "--resume: must hold a session of memory." in wrong


def test_bad_memory_and_model(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("not a session")
    for argv, message in [
        (["--memory", "all"], "invalid choice: 'all'"),
        (["--max-carriers", "3"], "--max-carriers is of --memory carriers and hybrid, got tokens"),
        (["--recent-frames", "3", "--memory", "carriers"], "--recent-frames is of --memory hybrid, got carriers"),
        (["--max-tokens", "3", "--memory", "carriers"], "--max-tokens is of --memory tokens and hybrid, got carriers"),
        (["--max-tokens", "0"], "--max-tokens: must be a whole number of at least 1, got '0'"),
        (["--max-tokens", "1"], "memory.max_tokens must be at least 4, the tokens of one step, got 1"),
        (["--memory", "hybrid", "--config", "carrier=none"], 'config.carrier must be "all" or "kept"'),
        (["--model", "tiny:gpt"], "--model: no tiny model 'gpt'; there are tiny:glm4v, "),
        (["--model", "tiny:NAMES"], "--model: no tiny model 'NAMES'; there are "),
        (["--save", tmp_path], "cannot be written: give a file in a folder that is there"),
        (["--save", tmp_path / "none" / "file"], "cannot be written: give a file in a folder that is there"),
        (["--resume", tmp_path / "none", "--model", tmp_path / "none"], "/none: no such file: check the path"),
        (["--resume", tmp_path / "text"], "--resume: must be a session's file"),
        (["--ask", "fine?", "--ask", "<|video_pad|>"], "question and system must not name a video themselves"),
    ]:
        assert message in failing(capsys, "video", clip, *argv)


def test_a_bad_question_is_refused_before_any_frame(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sp.StreamingSession, "append", None)
    assert "must not name a video" in failing(capsys, "video", clip, "--ask", "<|video_pad|>")


def test_missing_model(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["video", str(clip), "--model", str(tmp_path / "no-model")]) == 2
    lines = [each for each in capsys.readouterr().err.splitlines() if each.startswith("streamprune: ")]
    assert len(lines) == 1
    assert "no-model" in lines[0]


def test_help_is_an_exit_of_0(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--help"], ["video", "--help"], ["demo", "--help"], ["doctor", "--help"]):
        assert main(argv) == 0
        assert "usage: streamprune" in capsys.readouterr().out


def test_interrupt(
    sessions: list[FakeSession], clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeSession, "append", interrupt)
    assert main(["video", str(clip)]) == 130
    assert capsys.readouterr().err == "streamprune: interrupted\n"


def raising(error: BaseException) -> Callable[..., None]:
    def raises(*_: object) -> None:
        raise error

    return raises


def test_ctrl_c_in_an_import_that_was_put_off(
    sessions: list[FakeSession], clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ImportError("Failed to import transformers.models")
    error.__cause__ = RuntimeError("lazy")
    error.__cause__.__context__ = KeyboardInterrupt()
    monkeypatch.setattr(FakeSession, "append", raising(error))
    assert main(["video", str(clip)]) == 130
    assert capsys.readouterr().err == "streamprune: interrupted\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModuleNotFoundError("No module named 'a.b'", name="a.b"), "No module named 'a.b': pip install a"),
        (ImportError("it needs a: pip install a"), "it needs a: pip install a"),
        (torch.OutOfMemoryError("CUDA out of memory."), "CUDA out of memory.: try a smaller --model, "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "can't allocate memory: try a smaller --model, "),
    ],
)
def test_what_is_missing_is_told_with_a_cure(
    error: Exception,
    told: str,
    sessions: list[FakeSession],
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(FakeSession, "append", raising(error))
    assert told in failing(capsys, "video", clip)


def test_a_fault_of_ours_keeps_its_traceback(
    sessions: list[FakeSession], clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeSession, "append", raising(RuntimeError("a fault")))
    with pytest.raises(RuntimeError, match="a fault"):
        main(["video", str(clip)])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"streamprune {sp.__version__}\n", "")


def test_doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def version(package: str) -> str:
        if package in ("torchvision", "peft"):
            raise PackageNotFoundError(package)
        return f"{package} 1.2"

    monkeypatch.setattr(doctor, "version", version)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("python", torch.__version__, "transformers 1.2", "used", "TRITON_INTERPRET", "self-check"):
        assert word in out
    for word in ("matplotlib 1.2", "pillow 1.2", "accelerate 1.2", "not installed: no training\n"):
        assert word in out
    assert re.search(r" torchvision +not installed: .*sp\.pruned", out)


def test_doctor_notices_a_wrong_backend(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from streamprune_triton import pruner

    right = pruner.prune
    monkeypatch.setattr(pruner, "prune", lambda x, *args, **kwargs: right(x.flip(1), *args, **kwargs))
    assert selfcheck.check("torch", "cpu") == [
        "temporal similarities",
        "spatial similarities",
        "decisions",
        "kept tokens",
    ]
    assert main(["doctor"]) == 1
    assert "wrong: temporal similarities; " in capsys.readouterr().out


def test_doctor_says_why_a_backend_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(backend: str, device: str) -> list[str]:
        raise RuntimeError("no driver\nand more")

    monkeypatch.setattr(selfcheck, "check", broken)
    assert doctor._verdict("triton", "cpu") == (False, "cannot run: no driver")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (5e13, "45.5 TiB")]
)
def test_readable_bytes(size: float, text: str) -> None:
    assert summary.readable_bytes(size) == text


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.Progress(10.0) as shown:
        for n in range(10):
            shown.update(float(n), n + 1, 0.25)
    err = capsys.readouterr().err
    assert "10 frames, 25% of the tokens kept" in err
    assert err.count("\n") == 1


def test_progress_in_a_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with progress.Progress(None) as shown:
        shown.update(3.0, 4, 0.5)
    err = capsys.readouterr().err
    assert err.startswith("3 s  4 frames, 50% of the tokens kept")
    assert "\r" not in err


def test_demo_as_a_user_runs_it(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(sp.__file__).parents[1]), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "streamprune_triton", "demo"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "its answers mean nothing" not in done.stdout
    asked = re.findall(r"> at (\S+) s: (.+)\n(\S+)  \((right|wrong: \S+)\)\n", done.stdout)
    assert [seconds for seconds, *_ in asked] == ["3.5", "6.5", "9.5", "12.5", "15.5"]
    assert sum(told == "right" for *_, told in asked) >= 4
    kept = re.search(r"visual tokens kept +(\d+)", done.stdout)
    assert kept
    assert int(kept[1]) < 576 // 4
    page = (tmp_path / "streamprune-demo" / "report.html").read_text()
    assert len(page) > 10_000
    assert all(question in page for _, question, *_ in asked)


def test_demo_says_what_is_true(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The truths beside the answers are the clip's own, and questions come after their step and before the next."""
    from streamprune_triton.cli import demo, work
    from streamprune_triton.shapes.clip import ShapesClip

    seen: list[work.Job] = []
    monkeypatch.setattr(work, "run", lambda job: seen.append(job) or 0)
    assert main(["demo", "--report", str(tmp_path)]) == 0
    clip = ShapesClip(demo.SEED, demo.STEPS)
    assert seen[0].device == "cpu"
    during = seen[0].during
    assert len(during) == 5
    for frames, asked in during.items():
        assert frames % 2 == 0
        assert clip.ask(frames // 2 - 1)[asked.question] == asked.truth


def test_a_wrong_answer_is_called_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamprune_triton.cli import work

    session = FakeSession(sp.PruneConfig())
    monkeypatch.setattr(session, "ask", lambda question, max_new_tokens: "left")
    wrong = work.checked(session, 1.5, work.Asked("where ?", "right"), 4)  # type: ignore[arg-type]
    assert wrong == ("at 1.5 s: where ?", "left  (wrong: right)")
    assert work.checked(session, 2.0, work.Asked("where ?", "left"), 4)[1] == "left  (right)"  # type: ignore[arg-type]


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -u -m streamprune_triton doctor | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout == "versions\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    "option", [("--minutes", "-1"), ("--seconds", "0"), ("--seconds", "nan"), ("--minutes", "inf")]
)
def test_bench_takes_some_time(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert f"argument {option[0]}: must be a number above 0, got {option[1]!r}" in failing(capsys, "bench", *option)


def test_bench_out_of_memory_is_told_with_its_own_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from streamprune_triton.benchmarks import bench

    monkeypatch.setattr(bench, "main", raising(torch.OutOfMemoryError("CUDA out of memory.")))
    assert failing(capsys, "bench").endswith("CUDA out of memory.: try a smaller --case, or --cases\n")
