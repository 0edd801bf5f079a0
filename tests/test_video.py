"""Sampling by time stamps, whatever the container claims; and one-line errors."""

from __future__ import annotations

import struct
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("av", reason="needs PyAV")

from clips import number, write_clip

from streamprune_triton.video import Video, _Clock

DATA = Path(__file__).parents[2] / "shared" / "data"


def sampled(path: Path, fps: float = 1.0) -> list[tuple[float, int]]:
    with Video(path, fps) as video:
        return [(round(seconds, 3), number(image)) for seconds, image in video]


def by_rule(times: list[float], fps: float) -> list[tuple[float, int]]:
    """The documented rule in plain Python."""
    picked, tick = [], 0
    while any(t >= tick / fps - 1e-3 for t in times):
        n = next(n for n, t in enumerate(times) if t >= tick / fps - 1e-3)
        picked.append((round(times[n], 3), n))
        tick += 1
    return picked


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("fps", [1.0, 2.5, 3.0, 10.0, 25.0])
def test_constant_rate(tmp_path: Path, suffix: str, fps: float) -> None:
    path = write_clip(tmp_path / f"clip{suffix}", [100 * n for n in range(20)])
    assert sampled(path, fps) == by_rule([0.1 * n for n in range(20)], fps)


@pytest.mark.parametrize("fps", [0.5, 1.0, 4.0, 7.0])
def test_variable_rate(tmp_path: Path, fps: float) -> None:
    stamps = [0, 40, 900, 1000, 1010, 3500, 3600, 3700, 6020]
    path = write_clip(tmp_path / "clip.mp4", stamps)
    assert sampled(path, fps) == by_rule([stamp / 1000 for stamp in stamps], fps)


def test_a_pause_yields_its_next_frame_once_a_tick(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", [0, 500, 3200])
    assert [n for _, n in sampled(path)] == [0, 2, 2, 2]


@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_time_counts_from_the_first_frame(tmp_path: Path, suffix: str) -> None:
    codec = "mpeg2video" if suffix == ".ts" else "mpeg4"
    path = write_clip(
        tmp_path / f"clip{suffix}", [150 + 3 * n for n in range(20)], Fraction(1, 30), codec=codec, options={"bf": "0"}
    )
    assert sampled(path, 2.0) == by_rule([0.1 * n for n in range(20)], 2.0)


def test_b_frames_come_in_order_of_display(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", list(range(20)), Fraction(1, 10), options={"bf": "2"})
    assert sampled(path, 10.0) == by_rule([0.1 * n for n in range(20)], 10.0)


def test_no_stamps_and_no_duration(tmp_path: Path) -> None:
    """A raw elementary stream has neither."""
    path = write_clip(tmp_path / "clip.m4v", list(range(20)), Fraction(1, 25))
    with Video(path, 5.0) as video:
        times = [seconds for seconds, _ in video]
    assert times == pytest.approx([0.0, 0.2, 0.4, 0.6], abs=0.05)


@pytest.mark.parametrize("size", [(50, 70), (2, 16), (126, 34)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_clip(tmp_path / "clip.mkv", [0, 1000], size=size)
    with Video(path) as video:
        assert video.size == size
        assert {image.shape for _, image in video} == {(*size, 3)}


def test_odd_width_and_height(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=1)
        stream.height, stream.width, stream.pix_fmt = 33, 47, "bgr0"
        frame = av.VideoFrame.from_ndarray(np.full((33, 47, 3), 90, np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with Video(path) as video:
        (_, image), *rest = list(video)
    assert not rest
    assert image.shape == (33, 47, 3)
    assert image.dtype == np.uint8
    assert (image == 90).all()


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), -1), ((0, -1, 1, 0), 1), ((-1, 0, 0, -1), 2)])
def test_rotation_tag(tmp_path: Path, matrix: tuple[int, int, int, int], turns: int) -> None:
    path = write_clip(tmp_path / "clip.mp4", [0, 1000])
    plain = next(iter(Video(path)))[1].copy()
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # the matrix of a version 0 track header
    a, b, c, d = (each << 16 for each in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    with Video(path) as video:
        turned = next(iter(video))[1]
        assert video.size == turned.shape[:2]
    assert np.array_equal(turned, np.rot90(plain, turns))


def test_a_container_that_lies_about_its_frames(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.avi", list(range(20)), Fraction(1, 10))
    data = bytearray(path.read_bytes())
    at = data.index(b"avih") + 8 + 16  # total frames of the main header
    data[at : at + 4] = struct.pack("<I", 9999)
    path.write_bytes(data)
    assert len(sampled(path, 10.0)) == 20


def test_broken_packets_are_skipped(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", [100 * n for n in range(20)])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])  # cut short
    assert 8 <= len(sampled(path, 10.0)) < 20


def test_frames_are_streamed(tmp_path: Path) -> None:
    """The first frames come without the rest of the file being decoded."""
    path = write_clip(tmp_path / "clip.mp4", [100 * n for n in range(22)])
    with Video(path, 10.0) as video:
        frames = iter(video)
        assert len(list(islice(frames, 2))) == 2
        assert len(list(video._frames)) == 20


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1e6, "1", True, None])
def test_bad_fps(tmp_path: Path, fps: object) -> None:
    with pytest.raises(ValueError, match="fps must be a number above 0 and at most 1000"):
        Video(tmp_path / "none.mp4", fps)  # type: ignore[arg-type]


def test_a_title_that_is_no_text(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", [0, 1000])
    marked = path.read_bytes()
    assert b"Lavf" in marked
    path.write_bytes(marked.replace(b"Lavf", b"L\xe9\xff\xfe"))
    with Video(path) as video:
        assert len(list(video)) == 2


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.mp4: no such file"):
        Video(tmp_path / "none.mp4")
    with pytest.raises(ValueError, match="a directory: give one video file"):
        Video(tmp_path)
    for name, content in (
        ("empty.mp4", b""),
        ("noise.mp4", bytes(range(256)) * 64),
        ("text.txt", b"hello\nworld\n"),
        ("notes.mp4", b"1\n00:00:00,000 --> 00:00:02,000\nhello\n"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}: .*give a video file") as caught:
            Video(tmp_path / name)
        assert "\n" not in str(caught.value)
    for name, content in (  # of which FFmpeg would make a film
        ("long.txt", b"hello\n" * 200),
        ("picture.bin", b"P6\n2 2\n255\n" + bytes(12)),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}: holds no video stream: give a video file"):
            Video(tmp_path / name)


def test_a_file_without_its_frames(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.avi", [0, 1, 2], Fraction(1, 10))
    data = bytearray(path.read_bytes())
    start = data.index(b"movi") + 4
    end = data.index(b"idx1")
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"clip\.avi: no frame of it decodes"):
        Video(path)


def clocked(stamps: list[tuple[int | None, int | None]]) -> list[float]:
    stream = SimpleNamespace(time_base=Fraction(1, 10), average_rate=Fraction(10), guessed_rate=None)
    clock = _Clock(stream)
    return [round(clock(pts, dts), 3) for pts, dts in stamps]


@pytest.mark.parametrize(
    ("stamps", "seconds"),
    [
        ([(7, 7), (9, 9), (12, 12)], [0.0, 0.2, 0.5]),
        ([(None, None)] * 3, [0.0, 0.1, 0.2]),
        ([(0, 0), (None, 1), (None, 4)], [0.0, 0.1, 0.4]),
        ([(0, 2), (3, 3), (2, 4), (4, 5), (1, 6), (7, 7)], [0.0, 0.3, 0.3, 0.3, 0.4, 0.5]),  # pts in decoding order
        ([(0, 2), (3, 3), (2, 4), (1, 5), (7, None)], [0.0, 0.3, 0.3, 0.3, 0.7]),
        ([(0, None)] * 3, [0.0, 0.1, 0.2]),
        ([(50, 50), (51, 51), (0, 0), (1, 1), (2, 2)], [0.0, 0.1, 0.2, 0.3, 0.4]),  # two recordings joined
        ([(0, 0), (1, 1), (10**9, 10**9), (10**9 + 2, 10**9 + 2)], [0.0, 0.1, 0.2, 0.4]),
    ],
    ids=["offset", "none", "missing pts", "wrong pts", "missing dts", "constant", "falls back", "jumps ahead"],
)
def test_clock(stamps: list[tuple[int | None, int | None]], seconds: list[float]) -> None:
    assert clocked(stamps) == seconds


@pytest.mark.parametrize(("name", "frames", "size"), [("box.mp4", 16, (480, 640)), ("tree.avi", 30, (240, 320))])
def test_real_files(name: str, frames: int, size: tuple[int, int]) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not in the checkout's shared data")
    with Video(DATA / name) as video:
        times = [seconds for seconds, image in video if image.shape == (*size, 3)]
    assert len(times) == frames
    assert all(k - 1e-3 <= t for k, t in enumerate(times))
    assert times == sorted(times)


def test_without_pyav(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ImportError, match="pip install av"):
        Video(tmp_path / "clip.mp4")
