"""What `video` and `demo` do: frames in, answers, a table and a report out."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ..streaming.memory import Memory
from . import options, summary
from .progress import Progress

if TYPE_CHECKING:
    from ..config import PruneConfig
    from ..report import Collector
    from ..shapes.clip import ShapesClip
    from ..streaming.session import StreamingSession
    from ..video import Video

SHAPES = "streamprune:shapes"  # the trained model of the package, for clips of shapes
TINY = "tiny:qwen2_5_vl"  # where no model is named
# Features of the tiny model lie closer together than a trained one's: these thresholds part still from moving.
TINY_TEMPORAL, TINY_SPATIAL = 0.8, 0.8
TINY_NOTE = (
    "The model is tiny and its weights are random: its answers mean nothing. The thresholds (temporal {}, spatial {}) "
    "are for its features; the defaults of PruneConfig are for trained models."
)


class Asked(NamedTuple):
    """A question whose answer is known."""

    question: str
    truth: str


@dataclass
class Job:
    """One run: the source of frames and what to do with them.

    Attributes:
        during: by the number of raw frames seen, what is asked while the source runs on.
        notes: shown with the results.
    """

    source: Video | ShapesClip
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
    during: dict[int, Asked] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


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
    from ..report import Collector, make_directory, require, write

    collector = None
    if job.report is not None:
        require()
        make_directory(job.report)
        collector = Collector(job.config)
    session = open_session(job)
    earlier = session.stats.frames_in
    frames, decoding, answers = watch(job, session, collector)
    answers += [(q, printable(session.ask(q, max_new_tokens=job.max_new_tokens))) for q in job.questions]

    broken = getattr(job.source, "skipped", 0)
    spent = None if earlier else decoding
    table = summary.rows(session.stats, earlier + frames, broken, spent, job.memory, text_rows(session))
    thresholds = job.config.temporal_threshold, job.config.spatial_threshold
    notes = job.notes if tiny_name(job.model) is None else [*job.notes, TINY_NOTE.format(*thresholds)]
    print(f"{job.title}\n{summary.text(table)}")
    for question, answer in answers:
        print(f"\n> {question}\n{answer}")
    for note in notes:
        print(f"\n{note}")
    if job.report is not None and collector is not None:
        path = write(job.report, collector, title=job.title, rows=table, answers=answers, notes=notes)
        print(f"\nreport: {path}")
    return 0


def open_session(job: Job) -> StreamingSession:
    """A streaming session on the model of the job, where it was saved if the job resumes.

    Raises ValueError for a question that could not be asked, and for a file that does not fit.
    """
    from .. import models
    from ..streaming.conversation import Conversation
    from ..streaming.session import StreamingSession

    model, processor = loaded(job)
    session = StreamingSession(model, processor, job.config, job.memory, fps=job.fps)
    talk = Conversation(models.adapter(model)(model, processor), None)
    for question in job.questions:
        talk.question((), question, video=True)
    if job.resume is not None:
        try:
            session.load(job.resume)
        except ValueError as error:
            raise ValueError(f"--resume: {str(error).removeprefix('path ')}") from error
    return session


def text_rows(session: StreamingSession) -> int:
    """Rows of text that the cache would hold by now if nothing ever left it."""
    reader = session._reader
    steps = (reader.adapter.around(n, session.fps) for n in range(session.stats.steps))
    return len(reader.talk.opening) + sum(len(ids) for around in steps for ids in around)


def loaded(job: Job) -> tuple[Any, Any]:
    """The model of the job, on its device, and its processor."""
    from .. import models
    from ..shapes import model as small

    name = tiny_name(job.model)
    if job.model is not None and job.model != SHAPES and name is None:
        print(f"loading {job.model}", file=sys.stderr)
        return models.load(job.model, device=job.device)
    model: Any
    model, processor = small.load() if name is None else getattr(models.tiny, name)()
    return model.to(job.device), processor


def printable(answer: str) -> str:
    """The answer without what a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in answer).strip()


def watch(job: Job, session: StreamingSession, collector: Collector | None) -> tuple[int, float, list[tuple[str, str]]]:
    """Appends every frame; returns how many there were, the seconds spent on decoding them, and answers on the way.

    The last one is repeated where the model's step lacks a frame, as its processor would; what is saved is without.
    """
    frames, seconds, frame, result = 0, 0.0, None, None
    decoding, since = 0.0, time.perf_counter()
    answers = []
    with Progress(job.source.duration) as progress:
        for seconds, frame in job.source:
            decoding += time.perf_counter() - since
            result = session.append(frame[None])
            if result is not None and collector is not None:
                collector.add(seconds, frame, result)
            frames += 1
            stats = session.stats
            progress.update(seconds, frames, stats.tokens_kept / max(stats.tokens_in, 1))
            if frames in job.during:
                answers.append(checked(session, seconds, job.during[frames], job.max_new_tokens))
            since = time.perf_counter()
        if job.save is not None:
            session.save(job.save)
        if frame is not None and result is None:
            result = session.append(frame[None])
            if result is not None and collector is not None:
                collector.add(seconds, frame, result)
    return frames, decoding, answers


def checked(session: StreamingSession, seconds: float, asked: Asked, most: int) -> tuple[str, str]:
    """A question with the time at which it is asked, and the answer with the truth beside it."""
    answer = printable(session.ask(asked.question, max_new_tokens=most))
    told = f"{answer}  (right)" if answer == asked.truth else f"{answer}  (wrong: {asked.truth})"
    return f"at {seconds:.1f} s: {asked.question}", told
