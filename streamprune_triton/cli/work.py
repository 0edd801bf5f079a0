"""What `video` and `demo` do: frames in, answers, a table and a report out."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..streaming.memory import Memory
from . import options, summary
from .progress import Progress

if TYPE_CHECKING:
    from ..config import PruneConfig
    from ..report import Collector
    from ..streaming.session import StreamingSession
    from ..synthetic import SyntheticClip
    from ..video import Video

TINY = "tiny:qwen2_5_vl"  # where no model is named
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
    memory: Memory = field(default_factory=Memory)
    save: str | None = None
    resume: str | None = None


def configured(text: str | None, model: str | None) -> PruneConfig:
    """The configuration of --config, over defaults that fit the model."""
    from ..config import PruneConfig

    if tiny_name(model) is None:
        return options.prune_config(text, PruneConfig())
    return options.prune_config(text, PruneConfig(temporal_threshold=TINY_TEMPORAL, spatial_threshold=TINY_SPATIAL))


def tiny_name(model: str | None) -> str | None:
    """The family of a tiny model; None for a checkpoint."""
    name = TINY if model is None else model
    return name.removeprefix("tiny:") if name.startswith("tiny:") else None


def check_model(model: str | None) -> None:
    """Raises ValueError for a tiny model that there is not."""
    from ..models import tiny

    name = tiny_name(model)
    if name is not None and name not in tiny.NAMES:
        raise ValueError(
            f"--model: no tiny model {name!r}; there are {', '.join(f'tiny:{each}' for each in tiny.NAMES)}"
        )


def run(job: Job) -> int:
    """Does the job; returns the exit code. Raises ValueError, TypeError, OSError or ImportError for bad input."""
    from ..report import Collector, make_directory, write
    from ..report import require as require_report

    require_report()
    if job.report is not None:
        make_directory(job.report)
    session = open_session(job)
    collector = Collector(job.config)
    earlier = session.stats.frames_in
    frames, decoding = watch(job, session, collector)
    answers = [(q, printable(session.ask(q, max_new_tokens=job.max_new_tokens))) for q in job.questions]

    table = summary.rows(session.stats, earlier + frames, None if earlier else decoding, job.memory)
    thresholds = job.config.temporal_threshold, job.config.spatial_threshold
    notes = [] if tiny_name(job.model) is None else [TINY_NOTE.format(*thresholds)]
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
    """A streaming session on the model of the job, where it was saved if the job resumes."""
    from .. import models
    from ..streaming.session import StreamingSession

    model: Any
    name = tiny_name(job.model)
    if name is None:
        assert job.model is not None
        print(f"loading {job.model}", file=sys.stderr)
        model, processor = models.load(job.model, device=job.device)
    else:
        model, processor = getattr(models.tiny, name)()
        model = model.to(job.device)
    session = StreamingSession(model, processor, job.config, job.memory, fps=job.fps)
    if job.resume is not None:
        session.load(job.resume)
    return session


def printable(answer: str) -> str:
    """The answer without what a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in answer).strip()


def watch(job: Job, session: StreamingSession, collector: Collector) -> tuple[int, float]:
    """Appends every frame and returns how many there were, and the seconds spent on decoding them.

    The last one is repeated where the model's step lacks a frame, as its processor would; what is saved is without.
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
        if job.save is not None:
            session.save(job.save)
        if frame is not None and result is None:
            result = session.append(frame[None])
            if result is not None:
                collector.add(seconds, frame, result)
    return frames, decoding
