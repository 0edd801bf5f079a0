"""Samples: from a JSONL file of videos, or of generated clips of shapes."""

from __future__ import annotations

import json
import os
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .layout import Sample

HELD_OUT = 10  # every so many-th video is for evaluation, where no file is given for that


class Line(NamedTuple):
    """One sample of a file, before its video is decoded."""

    video: Path
    question: str
    answer: str
    at: float  # seconds; frames up to then are seen


class Videos:
    """Samples from a JSONL file: {"video": path, "question": text, "answer": text, "at": seconds}, "at" optional.

    Paths are relative to the file. Videos are decoded when a sample is taken.

    Args:
        path: of the file.
        fps: frames a second to look at.
        lines: instead of those of the file.

    Raises:
        OSError, ValueError: naming the line, before any video is decoded.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float = 1.0, lines: list[Line] | None = None) -> None:
        from ..video import check_fps

        self.path, self.fps = Path(path), check_fps(fps)
        self.lines = _read(self.path) if lines is None else lines

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, n: int) -> Sample:
        from ..video import Video

        line = self.lines[n]
        with Video(line.video, self.fps) as video:
            frames = np.stack([image for _, image in takewhile(lambda frame: frame[0] <= line.at, video)])
        return Sample(frames, line.question, line.answer, self.fps)

    def split(self) -> tuple[Videos, Videos]:
        """(to train with, to evaluate with): every tenth video, at least one, is kept back with all its questions.

        Raises ValueError where there is only one video.
        """
        videos = list(dict.fromkeys(line.video for line in self.lines))
        if len(videos) < 2:
            raise ValueError(f"{self.path}: names one video only: give another file to evaluate with")
        back = set(videos[HELD_OUT - 1 :: HELD_OUT] or videos[-1:])
        parts = [[line for line in self.lines if (line.video in back) == held] for held in (False, True)]
        return Videos(self.path, self.fps, parts[0]), Videos(self.path, self.fps, parts[1])


class Shapes:
    """Samples of generated clips (`streamprune_triton.shapes`): a question of a type drawn evenly, asked at any time.

    Args:
        count: of samples, each of a clip of its own.
        seed: the same seed gives the same samples; those of one seed are not those of another.
        steps: of a clip, at most.
    """

    def __init__(self, count: int, seed: int = 0, steps: int = 8) -> None:
        self.count, self.seed, self.steps = count, seed, steps

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, n: int) -> Sample:
        from ..shapes import questions, world
        from ..shapes.clip import ShapesClip

        if not 0 <= n < self.count:
            raise IndexError(n)
        rng = np.random.default_rng((self.seed, n))
        clip, step = ShapesClip(int(rng.integers(2**31)), self.steps), int(rng.integers(self.steps))
        known = clip.ask(step)
        kinds: dict[int, list[str]] = {}
        for text in known:
            kinds.setdefault(int(questions.TYPE_OF[questions.TEXTS.index(text)]), []).append(text)
        texts = kinds[int(rng.choice(list(kinds)))]
        text = texts[rng.integers(len(texts))]
        frames = np.stack([image for _, image in clip])[: (step + 1) * world.STEP]
        return Sample(frames, text, known[text], clip.fps)


def _read(path: Path) -> list[Line]:
    lines = [_line(text, f"{path} line {n}", path.parent) for n, text in _numbered(path)]
    if not lines:
        raise ValueError(f"{path}: holds no line")
    return lines


def _numbered(path: Path) -> list[tuple[int, str]]:
    return [(n, text) for n, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if text.strip()]


def _line(text: str, where: str, folder: Path) -> Line:
    try:
        given: Any = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{where} must hold an object, got {type(given).__name__}")
    for name in ("video", "question", "answer"):
        if not isinstance(given.get(name), str) or not given[name]:
            raise ValueError(f"{where}: {name!r} must be a text, got {given.get(name)!r}")
    at = given.get("at", float("inf"))
    if isinstance(at, bool) or not isinstance(at, (int, float)) or not at >= 0:
        raise ValueError(f"{where}: 'at' must be seconds of at least 0, got {at!r}")
    video = folder / given["video"]
    if not video.is_file():
        raise FileNotFoundError(f"{where}: {video} is no file")
    return Line(video, given["question"], given["answer"], float(at))
