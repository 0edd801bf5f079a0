"""A video language model that watches a stream: frames go in as they come, questions are answered in between."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import torch

from .. import models
from ..config import PruneConfig
from ..models.processor import check_fits
from ..result import PruneResult
from ..transfer import on_host
from ..validate import count
from . import ingest, saving
from .answer import Answer
from .conversation import check_text
from .frames import checked
from .generation import Decoding
from .memory import Memory
from .past import Past
from .reader import Reader
from .stats import Stats


class StreamingSession:
    """A stream of frames, pruned as it arrives, in the KV cache of a video language model.

    A question costs the question: its tokens and the answer's run on top of the cache, which afterwards is what it
    was. Positions are those of the unpruned model, gathered at the kept tokens; with nothing dropped, answers are
    those of the unmodified model's `generate` on the same frames. What stays of a frame is the memory's choice.

    Sessions may share a model, also in several threads; one session is for one thread at a time.

    Args:
        model: of a supported family, with its head, also inside of a PeftModel; it is not modified.
        processor: the model's, as `models.load` gives it.
        config: what to drop.
        memory: what stays of the frames.
        fps: rate at which the raw frames were taken, frames a second; the model's time positions follow from it.
        system: the system text; None leaves it to the chat template.
        cuda_graphs: run each step, question and token of an answer in fixed shapes, captured as CUDA graphs when they
            are first seen: for streams that come frame by frame, where launches cost more than arithmetic. Off a CUDA
            device nothing is captured. Answers agree within rounding, not bit for bit; `append_many` runs as without.

    Attributes:
        stats: a `stats.Stats`.

    Raises:
        ValueError, TypeError: naming the argument.
    """

    @on_host
    def __init__(
        self,
        model: Any,
        processor: Any,
        config: PruneConfig | None = None,
        memory: Memory | None = None,
        *,
        fps: float = 1.0,
        system: str | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        self.config = PruneConfig() if config is None else config
        self.memory = Memory() if memory is None else memory
        _check(self.config, self.memory, fps, system, cuda_graphs)
        self.fps, self.system = float(fps), system
        model = models.with_head(model)
        adapter = models.adapter(model)(model, processor)
        _check_devices(model)
        check_fits(adapter)
        self._model = model
        self._reader = Reader(adapter, self.memory, self.fps, system, cuda_graphs)
        self._past = self._reader.begin(self.config)
        self.stats = Stats()
        self._count(0, {}, {})

    def __repr__(self) -> str:
        held = f"steps={self.stats.steps}, kv_tokens={self.stats.kv_tokens}"
        return f"StreamingSession({self._model.config.model_type}, {self.memory}, fps={self.fps:g}, {held})"

    def append(self, frames: np.ndarray | torch.Tensor | Sequence[Any]) -> PruneResult | None:
        """Takes the next raw frames of the stream into the KV cache.

        Frames of one call see each other as the memory has it: it makes no difference how a stream is cut into calls.

        Args:
            frames: (N, height, width, 3) uint8 RGB, an array or a tensor, or a list of (height, width, 3); all of a
                stream's frames have one size.

        Returns:
            The result of the temporal steps that these frames complete, or None where they complete none. A step of
            Qwen2.5-VL is two raw frames: an odd one waits for the next.

        Raises:
            ValueError, TypeError: naming the argument. A failed call leaves the session as it was.
        """
        return self.append_many([self], [frames])[0]

    @staticmethod
    @on_host
    def append_many(sessions: Sequence[StreamingSession], frames: Sequence[Any]) -> list[PruneResult | None]:
        """`append` for several streams at once: one pass of the tower, of the pruner and of the language model.

        Args:
            sessions: different ones, of one model, configuration and kind of memory.
            frames: of each, as `append` takes them.

        Returns:
            As `append`, one a session.

        Raises:
            ValueError, TypeError: naming the argument. A failed call leaves all sessions as they were.
        """
        if isinstance(sessions, StreamingSession):
            raise TypeError("sessions must be a list of sessions, got one: use append")
        sessions = list(sessions)
        _check_many(sessions, frames)
        names = ["frames"] if len(sessions) == 1 else [f"frames[{n}]" for n in range(len(sessions))]
        triples = zip(sessions, frames, names, strict=True)
        new = [checked(each, session._past.waiting, name) for session, each, name in triples]
        seconds: dict[str, float] = {}
        readers, pasts = [session._reader for session in sessions], [session._past for session in sessions]
        with _all_or_none(sessions):
            done = ingest.ingest(readers, pasts, new, sessions[0].config, seconds) if sessions else []
            for session, (past, _) in zip(sessions, done, strict=True):
                session._past = past
        share = {stage: spent / len(sessions) for stage, spent in seconds.items()}
        for session, each, (_, pruned) in zip(sessions, new, done, strict=True):
            session._count(len(each), {} if pruned is None else ingest.counts(pruned), share)
        return [None if pruned is None else pruned.result for _, pruned in done]

    @on_host
    def skip(self, frames: int) -> None:
        """Notes that so many raw frames of the stream will never come, so that later ones keep their times.

        Frames that wait for the rest of their step are given up with them. With `positions="compact"` a gap never
        leads beyond the model's limit: a longer one counts as one up to there.
        """
        frames = count("frames", frames, 0)
        past = self._past
        waiting = 0 if past.waiting is None else len(past.waiting)
        steps = -(-(frames + waiting) // self._reader.adapter.frames_per_step) if frames else 0
        if not steps:
            return
        if past.waiting is not None:
            past = replace(past, waiting=past.waiting[:0])
        self._past = self._reader.skipped(past, steps)
        self.stats.frames_skipped += frames

    def ask(self, question: str, *, remember: bool = False, **generate_kwargs: Any) -> str:
        """The model's answer to a question about the stream so far.

        A raw frame that still waits for the rest of its step is seen, repeated to fill the step as the processor pads
        a clip; it goes on waiting afterwards, unless the turn is remembered.

        Args:
            question: plain text.
            remember: keep the question and its answer as a turn of the dialogue, which later questions and frames
                see; else the stream goes on as if nothing had been asked.
            generate_kwargs: as of `generate`: those in `generation.ARGUMENTS`. What is not given comes from the
                model's generation_config; whatever else that asks for (beams, forced tokens, a length penalty) is left
                out.

        Raises:
            ValueError, TypeError: naming the argument; ValueError before the first frame.
        """
        return "".join(self.stream(question, remember=remember, **generate_kwargs))

    @on_host
    def stream(self, question: str, *, remember: bool = False, **generate_kwargs: Any) -> Iterator[str]:
        """As `ask`, in pieces as they come. Frames may be appended meanwhile: the answer is about those before.

        A turn is remembered when its last piece has been taken; RuntimeError then, where frames came meanwhile.
        """
        check_text("question", question)
        if not isinstance(remember, bool):
            raise TypeError(f"remember must be a bool, got {type(remember).__name__}")
        decoding = Decoding.of(self._model.generation_config, **generate_kwargs)
        past = self._past
        if past.waiting is None:
            raise ValueError("question needs something to look at: append frames first")
        # Raises now, not with the first piece.
        self._reader.talk.question(past.turns, question, past.cursor is not None)
        answer = Answer(self._reader, past, question, decoding, self.config, self.stats.seconds)
        return self._answered(answer, past, remember)

    def _answered(self, answer: Answer, past: Past, remember: bool) -> Iterator[str]:
        yield from answer.pieces()
        if remember:
            if self._past is not past:
                raise RuntimeError("remember must be False where frames are appended while an answer is read")
            self._past = answer.remembered()
            self._count(0, answer.counts, {})

    def fork(self) -> StreamingSession:
        """A session that goes on from here on its own, as `copy.copy` gives it, too. The past is shared, and copied
        when one of the two evicts."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        other._reader = self._reader.fork()
        other._past = replace(self._past, cache=self._past.cache.fork())
        other.stats = replace(self.stats, seconds=dict(self.stats.seconds))
        return other

    def __copy__(self) -> StreamingSession:
        return self.fork()

    def __deepcopy__(self, memo: object) -> StreamingSession:
        return self.fork()

    def __reduce__(self) -> Any:
        raise TypeError("a StreamingSession cannot be pickled: use save, and load in a session of the other process")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all that the session has seen to a safetensors file, all or nothing. Raises OSError."""
        saving.save(path, self._past, saving.Kind.of(self), self.stats)

    @on_host
    def load(self, path: str | os.PathLike[str]) -> None:
        """Continues from a file of `save`, with the same bits, in place of what this session has seen.

        Raises:
            OSError, ValueError: where the file cannot be read, is no such file, or is of another model,
                configuration, memory, rate or system text. The session is then as it was. A model is known by its
                type, sizes and dtype, not by its weights: other weights go on from keys that are not theirs.
        """
        self._past, self.stats = saving.load(path, self._past, saving.Kind.of(self), self._model.device)

    def _count(self, frames: int, counts: dict[str, int], seconds: dict[str, float]) -> None:
        stats = self.stats
        stats.frames_in += frames
        for name, more in counts.items():
            setattr(stats, name, getattr(stats, name) + more)
        for stage, more_seconds in seconds.items():
            stats.seconds[stage] = stats.seconds.get(stage, 0.0) + more_seconds
        stats.kv_tokens, stats.kv_bytes = len(self._past.rows), self._past.cache.nbytes
        stats.carriers = len(self._past.keeping.carriers)


@contextmanager
def _all_or_none(sessions: Sequence[StreamingSession]) -> Iterator[None]:
    """Whatever fails inside, an interrupt included, leaves the sessions as they were."""
    pasts = [session._past for session in sessions]
    try:
        for past in pasts:
            past.cache.begin()
        yield
    except BaseException:
        for session, past in zip(sessions, pasts, strict=True):
            past.cache.rollback()
            session._past = past
        raise
    for past in pasts:
        past.cache.commit()


def _check(config: object, memory: object, fps: object, system: object, cuda_graphs: object) -> None:
    if isinstance(fps, bool) or not isinstance(fps, Real):
        raise TypeError(f"fps must be a number, got {type(fps).__name__}")
    if not 0 < float(fps) < float("inf"):
        raise ValueError(f"fps must be above 0 and finite, got {fps}")
    if not isinstance(config, PruneConfig):
        raise TypeError(f"config must be a PruneConfig, got {type(config).__name__}")
    if not isinstance(memory, Memory):
        raise TypeError(f"memory must be a Memory, got {type(memory).__name__}")
    if memory.carriers and config.carrier is None:
        raise ValueError(f'config.carrier must be "all" or "kept" for memory mode {memory.mode!r}, got None')
    if system is not None:
        check_text("system", system)
    if not isinstance(cuda_graphs, bool):
        raise TypeError(f"cuda_graphs must be a bool, got {type(cuda_graphs).__name__}")


def _check_devices(model: Any) -> None:
    devices = sorted({str(weight.device) for weight in model.parameters()})
    if len(devices) > 1 or "meta" in devices:
        raise ValueError(f"model must be on one device, not sharded or offloaded, got weights on {', '.join(devices)}")


def _check_many(sessions: list[Any], frames: Any) -> None:
    if not isinstance(frames, (list, tuple)) or len(frames) != len(sessions):
        raise ValueError(f"frames must be a list with one entry for each of the {len(sessions)} sessions")
    for n, session in enumerate(sessions):
        if not isinstance(session, StreamingSession):
            raise TypeError(f"sessions[{n}] must be a StreamingSession, got {type(session).__name__}")
        first = sessions[0]
        if session._model is not first._model or (session.config, session.memory) != (first.config, first.memory):
            raise ValueError(f"sessions[{n}] must have the model, config and memory of the others")
    if len({id(session) for session in sessions}) != len(sessions):
        raise ValueError("sessions must be different ones, got one twice")
