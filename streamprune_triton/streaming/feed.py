"""Frames that come faster than they are read: a bounded queue in front of a session, read by a thread of its own."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch

from .frames import checked
from .session import StreamingSession

POLICIES = ("block", "drop_oldest", "coalesce")
LEAST_STEPS = 4  # so that two whole steps wait in a full queue, however a step is cut at its ends


class Waiting(NamedTuple):
    """A raw frame (height, width, 3), and how many before it were given up."""

    image: np.ndarray
    gap: int


class FrameQueue:
    """Takes a stream's frames from any thread at any rate; a thread appends to the session all that waits, at once.

        with FrameQueue(session, when_full="drop_oldest") as queue:
            for frame in camera:
                queue.put(frame)
            print(queue.ask("What happened?"))

    So a stream that is late catches up in bulk, which costs less a frame. What is given up is noted by
    `session.skip`: later frames keep their times. Only whole temporal steps of the model are given up.

    As long as the queue is open the session is the queue's: between calls here, touch only `session.stats`. Where the
    reading of frames fails, the error is raised by the next call here, the session is as it was before these frames,
    they count as dropped, and the queue goes on.

    A queue that nobody holds any more reads what waits, and its thread ends. At the end of the process an open queue
    stops at once, and what waits is not read.

    Args:
        session: its `stats` count what is given up, as `frames_dropped` or `frames_coalesced`.
        size: at most so many raw frames wait, at least 4 steps of the model; those being read do not count.
        when_full: "block": `put` waits. "drop_oldest": the oldest step that waits goes. "coalesce": every other step
            that waits goes, so that what waits has half the rate, the older the more often.

    Raises:
        ValueError, TypeError: naming the argument.
    """

    def __init__(self, session: StreamingSession, size: int = 32, when_full: str = "block") -> None:
        self._step = _frames_per_step(session, size, when_full)
        self._session, self._size, self._when_full = session, int(size), when_full
        self._like = session._past.waiting  # frames of the stream's size
        self._waiting: list[Waiting] = []
        self._phase = 0  # raw frames that a step has got in front of those that wait
        self._closed = False
        self._error: BaseException | None = None
        self._busy = False  # somebody has the session
        self._askers = 0  # callers who wait for it; the thread steps back for them
        self._changed = threading.Condition()  # guards all of these; `_busy` guards the session
        self._kept: list[FrameQueue] = []  # this one as long as frames wait: nobody else may hold it
        self._begin_behind([])
        me = weakref.ref(self)
        work = (me, self._changed, self._kept)
        self._thread = threading.Thread(target=_work, args=work, name="frame-queue", daemon=True)
        self._thread.start()
        weakref.finalize(self, _stop, me, self._changed)  # called at the process's end, too

    def __enter__(self) -> FrameQueue:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
            return
        self._abandon()
        self._end()

    def put(self, frames: np.ndarray | torch.Tensor | Sequence[Any]) -> None:
        """Adds the next raw frame of the stream, or several, copied.

        Args:
            frames: (height, width, 3) uint8 RGB, or (N, height, width, 3), or a list of (height, width, 3).

        Raises:
            ValueError, TypeError: naming the argument, also for frames of another size; nothing was added.
            RuntimeError: where the queue is closed, also while `put` waits; the first of the frames may be in it.
        """
        if isinstance(frames, (np.ndarray, torch.Tensor)) and frames.ndim == 3 and frames.shape[-1] == 3:
            frames = frames[None]
        with self._changed:
            self._check()
            images = checked(frames, self._like)
            self._like = images[:0].copy() if len(images) else self._like
            for image in images:
                self._make_room()
                self._waiting.append(Waiting(image.copy(), 0))
                self._kept[:] = [self]
                self._changed.notify_all()

    def ask(self, question: str, *, remember: bool = False, **generate_kwargs: Any) -> str:
        """`StreamingSession.ask` about all frames put before the call; those put meanwhile wait. Raises as it does."""
        with self._turn(remember) as session:
            return session.ask(question, remember=remember, **generate_kwargs)

    def stream(self, question: str, **generate_kwargs: Any) -> Iterator[str]:
        """As `ask`, in pieces as they come; between two pieces frames are read. A turn to remember is for `ask`."""
        if generate_kwargs.pop("remember", False):
            raise ValueError("remember must be False here, where frames are read meanwhile: use ask")
        with self._turn() as session:
            seen = session.fork()
            seen.stats = session.stats
            pieces = seen.stream(question, **generate_kwargs)
        return self._serialised(pieces)

    def flush(self) -> None:
        """Reads all frames that wait."""
        with self._turn():
            pass

    def close(self) -> None:
        """Reads all frames that wait and ends the thread; then nothing can be put or asked. Twice is once."""
        self._end()
        self._raise()

    # Frames that wait; the condition is held

    def _make_room(self) -> None:
        if self._when_full == "block":
            self._changed.wait_for(lambda: len(self._waiting) < self._size or self._closed)
            self._check()
        elif len(self._waiting) == self._size:
            steps = range(-self._phase % self._step, self._size - self._step + 1, self._step)
            self._give_up(steps[:1] if self._when_full == "drop_oldest" else steps[len(steps) % 2 :: 2])

    def _give_up(self, steps: range) -> None:
        """Steps by where they begin among the frames that wait; at least the last of all stays."""
        gone = {begin + n for begin in steps for n in range(self._step)}
        left, gap = [], 0
        for n, frame in enumerate(self._waiting):
            gap += frame.gap + (n in gone)
            if n not in gone:
                left.append(Waiting(frame.image, gap))
                gap = 0
        self._waiting = left
        self._count(len(gone))

    def _count(self, frames: int) -> None:
        name = "frames_coalesced" if self._when_full == "coalesce" else "frames_dropped"
        setattr(self._session.stats, name, getattr(self._session.stats, name) + frames)

    def _check(self) -> None:
        self._raise()
        if self._closed:
            raise RuntimeError("the queue is closed")

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _taken(self) -> list[Waiting]:
        frames, self._waiting = self._waiting, []
        self._kept.clear()
        self._begin_behind(frames)
        self._changed.notify_all()
        return frames

    def _begin_behind(self, frames: list[Waiting]) -> None:
        held = self._session._past.waiting
        self._phase = ((0 if held is None else len(held)) + len(frames)) % self._step

    # The session, which one thread has at a time

    @contextmanager
    def _turn(self, remember: bool = False) -> Iterator[StreamingSession]:
        """The session, with all frames read that wait. A turn to remember ends the step that is begun."""
        with self._alone():
            with self._changed:
                self._check()
                frames = self._taken()
                self._phase = 0 if remember else self._phase
            self._read(frames)
            yield self._session

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._changed:
            self._askers += 1
            try:
                self._changed.wait_for(lambda: not self._busy)
            finally:
                self._askers -= 1
            self._busy = True
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()

    def _read_next(self, frames: list[Waiting]) -> None:
        """Of the thread, which has the session."""
        try:
            self._read(frames)
        except BaseException as error:
            self._error = error
        self._leave()

    def _has_work(self) -> bool:
        return not self._busy and not self._askers and (bool(self._waiting) or self._closed)

    def _read(self, frames: list[Waiting]) -> None:
        """Appends frames, one call for all that follow each other. Those that cannot be read are given up."""
        starts = [n for n, frame in enumerate(frames) if frame.gap or not n]
        for start, stop in zip(starts, [*starts[1:], len(frames)], strict=False):
            self._session.skip(frames[start].gap)
            try:
                self._session.append([frame.image for frame in frames[start:stop]])
            except BaseException:
                self._lose(frames[start:])
                raise

    def _lose(self, frames: list[Waiting]) -> None:
        self._session.skip(len(frames) + sum(frame.gap for frame in frames[1:]))
        with self._changed:
            self._session.stats.frames_dropped += len(frames)
            self._like = self._session._past.waiting  # not the size of frames that were refused
            self._begin_behind([])

    def _serialised(self, pieces: Iterator[str]) -> Iterator[str]:
        while True:
            with self._alone():
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def _abandon(self) -> None:
        with self._changed:
            self._waiting = []
            self._kept.clear()

    def _end(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()


def _work(queue: weakref.ref[FrameQueue], changed: threading.Condition, _: list[FrameQueue]) -> None:
    """The thread. While it waits, a queue that nobody else holds can go, but for one in which frames wait."""
    while True:
        with changed:
            changed.wait_for(partial(_due, queue))
            mine = queue()
            if mine is None or not mine._waiting:
                return
            frames, mine._busy = mine._taken(), True
        mine._read_next(frames)
        del mine, frames


def _due(queue: weakref.ref[FrameQueue]) -> bool:
    """Whether there is something to read, or nothing will come any more."""
    mine = queue()
    due = mine is not None and mine._has_work()
    del mine  # may have been the last one to hold it
    return due or queue() is None


def _stop(queue: weakref.ref[FrameQueue], changed: threading.Condition) -> None:
    """Where the queue is gone, or the process ends: a thread that is left in the middle of PyTorch aborts it."""
    mine = queue()
    if mine is not None:
        mine._abandon()
        mine._end()
    with changed:
        changed.notify_all()


def _frames_per_step(session: object, size: object, when_full: object) -> int:
    """Raw frames of a step. Raises ValueError or TypeError naming the argument."""
    if not isinstance(session, StreamingSession):
        raise TypeError(f"session must be a StreamingSession, got {type(session).__name__}")
    if when_full not in POLICIES:
        raise ValueError(f"when_full must be one of {', '.join(POLICIES)}, got {when_full!r}")
    if isinstance(size, bool) or not isinstance(size, Integral):
        raise TypeError(f"size must be an integer, got {type(size).__name__}")
    step = session._reader.adapter.frames_per_step
    if size < LEAST_STEPS * step:
        raise ValueError(f"size must be at least {LEAST_STEPS * step}, {LEAST_STEPS} steps of the model, got {size}")
    return step
