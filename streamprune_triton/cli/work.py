"""What `video` and `demo` do: frames in, answers, a table and a report out."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import options, summary
from .progress import Progress

if TYPE_CHECKING:
    from ..config import PruneConfig
    from ..report import Collector
    from ..streaming.session import StreamingSession
    from ..synthetic import SyntheticClip
    from ..video import Video

# Features of the tiny model lie closer together than a trained one's: these thresholds part still from moving.
TINY_TEMPORAL, TINY_SPATIAL = 0.8, 0.8
TINY_NOTE = (
    "The model is tiny and its weights are random: its answers mean nothing. The thresholds (temporal {}, spatial {}) "
    "are for its features; the defaults of PruneConfig are for trained models."
)


@dataclass
class Job:
    """One run: the source of frames and what to do with them."""

    source: Video | SyntheticClip
    title: str
    config: PruneConfig
    model: str | None
    device: str
    fps: float
    questions: list[str]
    max_new_tokens: int
    report: str | None


def configured(text: str | None, model: str | None) -> PruneConfig:
    """The configuration of --config, over defaults that fit the model."""
    from ..config import PruneConfig

    if model is not None:
        return options.prune_config(text, PruneConfig())
    return options.prune_config(text, PruneConfig(temporal_threshold=TINY_TEMPORAL, spatial_threshold=TINY_SPATIAL))


def run(job: Job) -> int:
    """Does the job; returns the exit code. Raises ValueError, TypeError, OSError or ImportError for bad input."""
    from ..report import Collector, make_directory, write
    from ..report import require as require_report

    require_report()
    if job.report is not None:
        make_directory(job.report)
    session = open_session(job)
    collector = Collector(job.config)
    frames, decoding = watch(job, session, collector)
    answers = [(q, printable(session.ask(q, max_new_tokens=job.max_new_tokens))) for q in job.questions]

    table = summary.rows(session.stats, frames, decoding)
    notes = [] if job.model else [TINY_NOTE.format(job.config.temporal_threshold, job.config.spatial_threshold)]
    print(f"{job.title}\n{summary.text(table)}")
    for question, answer in answers:
        print(f"\n> {question}\n{answer}")
    for note in notes:
        print(f"\n{note}")
    if job.report is not None:
        path = write(job.report, collector, title=job.title, rows=table, answers=answers, notes=notes)
        print(f"\nreport: {path}")
    return 0


def open_session(job: Job) -> StreamingSession:
    """A streaming session on the model of the job; the tiny built-in one where it names none."""
    from ..streaming.session import StreamingSession

    model: Any
    if job.model is None:
        from ..models import tiny

        model, processor = tiny.qwen2_5_vl()
        model = model.to(job.device)
    else:
        from .. import models

        print(f"loading {job.model}", file=sys.stderr)
        model, processor = models.load(job.model, device=job.device)
    return StreamingSession(model, processor, job.config, fps=job.fps)


def printable(answer: str) -> str:
    """The answer without what a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in answer).strip()


def watch(job: Job, session: StreamingSession, collector: Collector) -> tuple[int, float]:
    """Appends every frame and returns how many there were, and the seconds spent on decoding them.

    The last one is repeated where the model's step lacks a frame, as its processor would.
    """
    frames, seconds, frame, result = 0, 0.0, None, None
    decoding, since = 0.0, time.perf_counter()
    with Progress(job.source.duration) as progress:
        for seconds, frame in job.source:
            decoding += time.perf_counter() - since
            result = session.append(frame[None])
            if result is not None:
                collector.add(seconds, frame, result)
            frames += 1
            stats = session.stats
            progress.update(seconds, frames, stats.tokens_kept / max(stats.tokens_in, 1))
            since = time.perf_counter()
        if frame is not None and result is None:
            result = session.append(frame[None])
            if result is not None:
                collector.add(seconds, frame, result)
    return frames, decoding
