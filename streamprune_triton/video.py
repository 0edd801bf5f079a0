"""Video files as a stream of frames at a chosen rate; never more than a few frames in memory. Needs PyAV."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from fractions import Fraction
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

RESOLUTION = 1e-3  # seconds; Matroska rounds its stamps to this
LONGEST_GAP = 3600.0  # seconds; a longer jump ahead is taken for a broken stamp,
LONGEST_LAG = 1.0  # and so is one back by more than this
USUAL_RATE = Fraction(25)  # frames a second where a file does not tell
MOST_FPS = 1000.0
NOT_VIDEO = ("tty", "image2")  # FFmpeg's demuxers that make a "video" of text or of a picture


class Video:
    """The frames of a video file, sampled at a constant rate, upright and in RGB. Iterate once.

    The rule: the ticks are k / fps for k = 0, 1, 2, ... seconds after the first frame, and every tick yields the first
    frame at or after it (to a millisecond). A frame that is the first for several ticks, as after a pause of a variable
    frame rate, is yielded for each, so that n frames are always n / fps seconds. Ticks after the last frame yield none.

    Time comes from each frame's own stamp (pts, or dts where the pts are missing or run backwards), not from a frame
    count or a nominal rate. Where both stamps fail the nominal rate goes on. Broken packets are skipped and counted.

    Args:
        path: a file in any container that PyAV's FFmpeg reads.
        fps: frames a second to yield, in (0, 1000].

    Attributes:
        size: (height, width) of every frame; later frames of another size are scaled to it.
        duration: seconds as the container claims them, or None. Good for a progress bar only.
        skipped: packets so far that could not be decoded.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a URL, a directory, not a video, no frame that decodes, or fps out of range. One line with the cure.
        ImportError: PyAV is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float = 1.0) -> None:
        self.fps = check_fps(fps)
        self.path = Path(path)
        if "://" in os.fspath(path) and not self.path.exists():
            raise ValueError(f"{path}: URLs are not opened: download it and give the file")
        self._container, self._stream = _open(self.path)
        self.skipped = 0
        self.duration = _duration(self._container, self._stream)
        self._frames = self._decode()
        try:
            self._first = next(self._frames, None)
            if self._first is None:
                raise ValueError(f"{self.path}: no frame of it decodes: try `ffmpeg -i {self.path.name} out.mp4`")
        except BaseException:
            self.close()
            raise
        self._width, self._height = self._first.width, self._first.height
        self.size: tuple[int, int] = self._image(self._first).shape[:2]

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yields (seconds since the first frame, (height, width, 3) uint8 RGB)."""
        clock = _Clock(self._stream)
        tick = 0
        for frame in self._all():
            seconds = clock(frame.pts, frame.dts)
            if seconds + RESOLUTION < tick / self.fps:
                continue
            image = self._image(frame)
            while tick / self.fps <= seconds + RESOLUTION:
                yield seconds, image
                tick += 1

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; iterating ends."""
        self._frames.close()
        self._container.close()

    def _all(self) -> Iterator[Any]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        yield from self._frames

    def _decode(self) -> Generator[Any, None, None]:
        import av

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:  # a file cut short: what came before it stands
                self.skipped += 1
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self.skipped += 1
                continue
            yield from frames

    def _image(self, frame: Any) -> np.ndarray:
        image = frame.to_ndarray(format="rgb24", width=self._width, height=self._height)
        turns = round(frame.rotation / 90) % 4  # the tag counts degrees counter-clockwise, as rot90 does
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


class _Clock:
    """Seconds since the first frame, never falling, from stamps that may be missing or wrong.

    As in FFmpeg's own guess, the dts take over once more pts than dts have failed to rise: there are files with
    B-frames whose pts were written in the order of decoding.
    """

    def __init__(self, stream: Any) -> None:
        self.time_base = float(stream.time_base or Fraction(1, 90000))
        self.period = float(1 / _rate(stream))
        self.seconds: float | None = None
        self.start = 0.0  # seconds of the stamp that counts as 0
        self.delay = 0  # of the dts behind the pts
        self.pts, self.dts = _Stamps(), _Stamps()

    def __call__(self, pts: int | None, dts: int | None) -> float:
        if self.seconds is None and pts is not None and dts is not None:
            self.delay = dts - pts
        rose = self.pts.rises(pts)
        dts_rose = self.dts.rises(dts)
        stamp = pts
        if dts is not None and self.pts.faults > self.dts.faults:
            stamp, rose = dts - self.delay, dts_rose
        self.seconds = self._after(self.seconds, stamp, rose)
        return self.seconds

    def _after(self, last: float | None, stamp: int | None, rose: bool) -> float:
        if last is None:
            self.start = (stamp or 0) * self.time_base
            return 0.0
        following = last + self.period
        if stamp is None:
            return following
        seconds = stamp * self.time_base - self.start
        if (
            not last - LONGEST_LAG < seconds < last + LONGEST_GAP
        ):  # another recording begins: its stamps count from here
            self.start += seconds - following
            return following
        if seconds <= last and not rose:
            return following
        return max(seconds, last)


class _Stamps:
    """How many stamps of one kind were missing or did not rise."""

    def __init__(self) -> None:
        self.last: int | None = None
        self.faults = 0

    def rises(self, stamp: int | None) -> bool:
        rose = stamp is not None and (self.last is None or stamp > self.last)
        self.faults += not rose
        self.last = self.last if stamp is None else stamp
        return rose


def check_fps(fps: object) -> float:
    """`fps` as a float. Raises ValueError unless it is a number in (0, 1000]."""
    if isinstance(fps, bool) or not isinstance(fps, Real) or not 0 < float(fps) <= MOST_FPS:
        raise ValueError(f"fps must be a number above 0 and at most {MOST_FPS:.0f}, got {fps!r}")
    return float(fps)


def _open(path: Path) -> tuple[Any, Any]:
    try:
        import av
    except ImportError as error:
        raise ImportError("reading a video needs PyAV, which is not installed: pip install av") from error
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file: check the path")
    if path.is_dir():
        raise ValueError(f"{path}: a directory: give one video file in it")
    try:
        container = av.open(str(path), **_lenient(av.__version__))
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or "cannot be opened"
        raise ValueError(f"{path}: FFmpeg cannot read it ({reason}): give a video file, such as an .mp4") from error
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    name = container.format.name
    if not streams or name in NOT_VIDEO or name.endswith("_pipe"):
        container.close()
        raise ValueError(f"{path}: holds no video stream: give a video file, such as an .mp4")
    return container, streams[0]


def _lenient(version: str) -> dict[str, Any]:
    """Options with which a release of PyAV opens files whose metadata is no UTF-8; from 19 on it always does."""
    return {} if int(version.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}


def _rate(stream: Any) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate or USUAL_RATE
    return rate if 0 < rate <= MOST_FPS else USUAL_RATE


def _duration(container: Any, stream: Any) -> float | None:
    if stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration:
        seconds = container.duration / 1e6  # FFmpeg's AV_TIME_BASE
    else:
        return None
    return seconds if seconds > 0 else None
