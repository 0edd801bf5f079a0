"""Frames that wait for a session: what is read, what is given up and when, whatever the threads do.

A session stands at a gate, so that frames wait for as long as a test wants them to; nothing here depends on time.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import unmodified
from streams import GREEDY, SOME, WHAT, counts_of, same_past

from streamprune_triton import Memory, StreamingSession
from streamprune_triton.models import tiny
from streamprune_triton.streaming.feed import FrameQueue

LONG = 30.0  # seconds, after which a test has hung
FILM = unmodified.film(40, (56, 56))


class Gated(StreamingSession):
    """Writes down what it is told, and waits at a gate before it reads or answers."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.told: list[tuple[str, int]] = []
        self.gate, self.reading = threading.Event(), threading.Semaphore(0)
        self.gate.set()
        self.fails: set[int] = set()  # numbers of frames that it cannot read at once

    def append(self, frames: Any) -> Any:
        self.reading.release()
        assert self.gate.wait(LONG)
        if len(frames) in self.fails:
            raise MemoryError("no room")
        self.told.append(("append", len(frames)))
        return super().append(frames)

    def ask(self, question: str, **options: Any) -> str:
        self.reading.release()
        assert self.gate.wait(LONG)
        return super().ask(question, **options)

    def skip(self, frames: int) -> None:
        if frames:
            self.told.append(("skip", frames))
        super().skip(frames)


@pytest.fixture(scope="module")
def pairs() -> tuple[Any, Any]:
    """A step is two raw frames."""
    return tiny.qwen2_5_vl()


@pytest.fixture
def session(pairs) -> Gated:
    return Gated(*pairs, SOME, Memory("hybrid", recent_frames=2))


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert not [each for each in threading.enumerate() if each.name == "frame-queue"]


def held_up(session: Gated, queue: FrameQueue, frames: int) -> None:
    """Until the gate opens, the thread is busy with the first frames, and what is put next waits."""
    session.gate.clear()
    queue.put(FILM[:frames])
    assert session.reading.acquire(timeout=LONG)


def spliced(pairs, *parts: int | slice) -> StreamingSession:
    """A session told directly: frames of the film, and numbers to skip."""
    session = StreamingSession(*pairs, SOME, Memory("hybrid", recent_frames=2))
    for part in parts:
        if isinstance(part, int):
            session.skip(part)
        else:
            session.append(FILM[part])
    return session


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Runs it; its answer, or the error that it raised."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(work())
        except BaseException as error:
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, answers


def finished(thread: threading.Thread) -> None:
    thread.join(LONG)
    assert not thread.is_alive()


@pytest.mark.parametrize("when_full", ["block", "drop_oldest", "coalesce"])
def test_with_room_every_frame_is_read_in_order(pairs, session: Gated, when_full: str):
    with FrameQueue(session, 40, when_full) as queue:
        for n in range(21):
            queue.put(FILM[n])
        queue.put(FILM[21:30])
        queue.put(list(FILM[30:35]))
        queue.put(torch.from_numpy(FILM[35]))
        queue.put(FILM[:0])
    assert same_past(session, spliced(pairs, slice(0, 36)))
    assert counts_of(session) == counts_of(spliced(pairs, slice(0, 36)))


def test_what_waits_is_read_at_once(session: Gated):
    with FrameQueue(session) as queue:
        held_up(session, queue, 1)
        for n in range(1, 21):
            queue.put(FILM[n])
        session.gate.set()
    assert session.told == [("append", 1), ("append", 20)]


def test_a_frame_is_copied_when_it_is_put(pairs, session: Gated):
    buffer = FILM[0].copy()
    with FrameQueue(session) as queue:
        held_up(session, queue, 1)
        for n in range(1, 6):
            buffer[:] = FILM[n]
            queue.put(buffer)
        buffer[:] = 0
        session.gate.set()
    assert same_past(session, spliced(pairs, slice(0, 6)))


def test_block_waits_for_room(pairs, session: Gated):
    with FrameQueue(session, 8) as queue:
        held_up(session, queue, 1)
        thread, answers = in_thread(lambda: queue.put(FILM[1:20]))
        with queue._changed:
            assert queue._changed.wait_for(lambda: len(queue._waiting) == 8, LONG)
        assert thread.is_alive()
        session.gate.set()
        finished(thread)
        assert answers == [None]
    assert same_past(session, spliced(pairs, slice(0, 20)))
    assert session.stats.frames_skipped == session.stats.frames_dropped == session.stats.frames_coalesced == 0


@pytest.mark.parametrize(
    ("first", "put", "parts"),
    [
        (2, 10, [slice(0, 2), slice(2, 10)]),  # no more than there is room for
        (2, 11, [slice(0, 2), 2, slice(4, 11)]),
        (2, 13, [slice(0, 2), 4, slice(6, 13)]),
        (3, 12, [slice(0, 4), 2, slice(6, 12)]),  # frame 3 belongs to the step of frame 2, which is being read
        (3, 14, [slice(0, 4), 4, slice(8, 14)]),
        (1, 40, [slice(0, 2), 32, slice(34, 40)]),
    ],
)
def test_drop_oldest_gives_up_whole_steps_and_keeps_times(pairs, session: Gated, first: int, put: int, parts: list):
    with FrameQueue(session, 8, "drop_oldest") as queue:
        held_up(session, queue, first)
        queue.put(FILM[first:put])
        session.gate.set()
    gone = sum(part for part in parts if isinstance(part, int))
    assert same_past(session, spliced(pairs, *parts))
    assert (session.stats.frames_dropped, session.stats.frames_skipped) == (gone, gone)
    assert session.stats.frames_coalesced == 0
    assert session.stats.frames_in + gone == put


@pytest.mark.parametrize(
    ("first", "put", "parts"),
    [
        (2, 10, [slice(0, 10)]),
        # 2-3 4-5 6-7 8-9 wait: 2-3 and 6-7 go
        (2, 11, [slice(0, 2), 2, slice(4, 6), 2, slice(8, 11)]),
        # then 4-5 8-9 10-11 12-13 wait: 4-5 and 10-11 go
        (2, 15, [slice(0, 2), 6, slice(8, 10), 2, slice(12, 15)]),
        # 3 | 4-5 6-7 8-9 | 10 wait: 6-7 goes
        (3, 12, [slice(0, 6), 2, slice(8, 12)]),
    ],
)
def test_coalesce_gives_up_every_other_step(pairs, session: Gated, first: int, put: int, parts: list):
    with FrameQueue(session, 8, "coalesce") as queue:
        held_up(session, queue, first)
        queue.put(FILM[first:put])
        session.gate.set()
    gone = sum(part for part in parts if isinstance(part, int))
    assert same_past(session, spliced(pairs, *parts))
    assert (session.stats.frames_coalesced, session.stats.frames_skipped) == (gone, gone)
    assert session.stats.frames_dropped == 0


@pytest.mark.parametrize("when_full", ["drop_oldest", "coalesce"])
@pytest.mark.parametrize("first", [1, 2])
def test_any_number_keeps_the_newest_frames_and_the_bound(session: Gated, when_full: str, first: int):
    with FrameQueue(session, 9, when_full) as queue:
        held_up(session, queue, first)
        for n in range(first, 40):
            queue.put(FILM[n])
            assert len(queue._waiting) <= 9
            assert np.array_equal(queue._waiting[-1].image, FILM[n])
        session.gate.set()
    stats = session.stats
    assert stats.frames_in + stats.frames_skipped == 40
    assert stats.frames_skipped == stats.frames_dropped + stats.frames_coalesced > 0
    assert session._past.steps == 20


def test_with_a_frame_a_step_single_frames_go():
    session = Gated(*tiny.llava_onevision(), SOME, Memory("hybrid", recent_frames=2))
    with FrameQueue(session, 4, "drop_oldest") as queue:
        held_up(session, queue, 1)
        queue.put(FILM[1:8])
        session.gate.set()
    assert session.told == [("append", 1), ("skip", 3), ("append", 4)]


def test_an_answer_is_about_all_frames_put_before(pairs, session: Gated):
    with FrameQueue(session) as queue:
        held_up(session, queue, 2)
        queue.put(FILM[2:9])
        thread, answers = in_thread(lambda: queue.ask(WHAT, **GREEDY))
        session.gate.set()
        finished(thread)
        assert session.stats.frames_in == 9
    assert answers == [spliced(pairs, slice(0, 9)).ask(WHAT, **GREEDY)]


def test_a_stream_is_about_the_frames_before_it_and_lets_others_be_read(pairs, session: Gated):
    with FrameQueue(session, 8) as queue:
        queue.put(FILM[:6])
        pieces = queue.stream(WHAT, **GREEDY)
        queue.put(FILM[6:20])
        queue.flush()
        text = next(pieces)
        queue.put(FILM[20:38])  # more than there is room for: the thread must read some
        text += "".join(pieces)
    assert text == spliced(pairs, slice(0, 6)).ask(WHAT, **GREEDY)
    assert same_past(session, spliced(pairs, slice(0, 38)))
    assert session.stats.seconds["answer"] > 0


def test_a_remembered_turn_ends_the_step_that_is_begun(pairs, session: Gated):
    plain = spliced(pairs, slice(0, 5))
    session.append(FILM[:5])
    assert session.reading.acquire(timeout=LONG)
    with FrameQueue(session, 8, "drop_oldest") as queue:
        session.gate.clear()
        thread, answers = in_thread(lambda: queue.ask(WHAT, remember=True, **GREEDY))
        assert session.reading.acquire(timeout=LONG)
        queue.put(FILM[5:16])
        session.gate.set()
        finished(thread)
    assert answers == [plain.ask(WHAT, remember=True, **GREEDY)]
    plain.skip(4)
    plain.append(FILM[9:16])
    assert same_past(session, plain)


def test_a_session_that_has_begun_a_step_goes_on(pairs, session: Gated):
    session.append(FILM[:1])
    with FrameQueue(session, 8, "drop_oldest") as queue:
        queue.put(FILM[1:13])  # the thread cannot read before all of them are in
    assert session.told == [("append", 1), ("append", 1), ("skip", 4), ("append", 7)]
    assert same_past(session, spliced(pairs, slice(0, 2), 4, slice(6, 13)))


def test_the_size_of_frames_that_are_refused_is_forgotten(pairs, session: Gated):
    with FrameQueue(session) as queue:
        queue.put(np.zeros((2, 2, 600, 3), np.uint8))
        with pytest.raises(ValueError, match="aspect ratio"):
            queue.flush()
        queue.put(FILM[:4])
        queue.flush()
        with pytest.raises(ValueError, match="frames must keep the stream's size: 56 x 56 so far"):
            queue.put(FILM[:2, :28])
    assert same_past(session, spliced(pairs, 2, slice(0, 4)))


@pytest.mark.parametrize("call", ["put", "ask", "stream", "flush", "close"])
def test_what_fails_in_the_thread_is_raised_by_the_next_call(pairs, session: Gated, call: str):
    session.append(FILM[:4])
    session.fails = {6}
    queue = FrameQueue(session)
    queue.put(FILM[4:10])
    with queue._changed:
        assert queue._changed.wait_for(lambda: queue._error is not None, LONG)
    calls = {"put": (FILM[0],), "ask": (WHAT,), "stream": (WHAT,)}
    with pytest.raises(MemoryError, match="no room"):
        getattr(queue, call)(*calls.get(call, ()))
    if call != "close":
        queue.put(FILM[10:12])
        queue.close()
    assert same_past(session, spliced(pairs, slice(0, 4), 6, *[slice(10, 12)] * (call != "close")))
    assert session.stats.frames_dropped == session.stats.frames_skipped == 6


def test_frames_that_the_asking_thread_cannot_read_are_given_up_too(pairs, session: Gated):
    session.fails = {3}
    with FrameQueue(session, 8, "drop_oldest") as queue:
        held_up(session, queue, 2)
        queue.put(FILM[2:13])  # 6 to 13 wait, behind a gap of 4
        queue._waiting[3:] = [each._replace(gap=2 * (n == 0)) for n, each in enumerate(queue._waiting[3:])]
        asked, wait_for = threading.Event(), queue._changed.wait_for

        def noted(predicate: Callable[[], Any]) -> Any:
            asked.set()
            return wait_for(predicate)

        queue._changed.wait_for = noted  # type: ignore[method-assign, assignment]
        thread, answers = in_thread(queue.flush)
        assert asked.wait(LONG)
        session.gate.set()
        finished(thread)
        assert isinstance(answers[0], MemoryError)
        assert queue._phase == 0
        queue.put(FILM[16:18])
    assert session.told == [("append", 2), ("skip", 4), ("skip", 9), ("append", 2)]
    assert same_past(session, spliced(pairs, slice(0, 2), 14, slice(16, 18)))
    assert (session.stats.frames_dropped, session.stats.frames_skipped) == (4 + 7, 4 + 9)


def test_a_block_that_waits_hears_of_an_error(session: Gated):
    session.fails = {2}
    with FrameQueue(session, 8) as queue:
        held_up(session, queue, 2)
        thread, answers = in_thread(lambda: queue.put(FILM[:20]))
        with queue._changed:
            assert queue._changed.wait_for(lambda: len(queue._waiting) == 8, LONG)
        session.gate.set()
        finished(thread)
        assert isinstance(answers[0], MemoryError)


def test_a_block_that_waits_hears_of_the_end(session: Gated):
    queue = FrameQueue(session, 8)
    held_up(session, queue, 2)
    thread, answers = in_thread(lambda: queue.put(FILM[:20]))
    with queue._changed:
        assert queue._changed.wait_for(lambda: len(queue._waiting) == 8, LONG)
    closing, _ = in_thread(queue.close)
    finished(thread)
    assert isinstance(answers[0], RuntimeError)
    session.gate.set()
    finished(closing)
    assert session.stats.frames_in == 10


def test_an_error_around_the_queue_gives_up_what_waits(session: Gated):
    def open_gate() -> None:
        with queue._changed:
            assert queue._changed.wait_for(lambda: queue._closed, LONG)
        session.gate.set()

    queue = FrameQueue(session)
    held_up(session, queue, 2)
    queue.put(FILM[2:8])
    opening, _ = in_thread(open_gate)
    with pytest.raises(KeyError), queue:
        raise KeyError
    finished(opening)
    assert session.told == [("append", 2)]


def test_a_closed_queue_has_read_all_and_takes_nothing(pairs, session: Gated):
    queue = FrameQueue(session)
    queue.put(FILM[:7])
    queue.close()
    queue.close()
    assert same_past(session, spliced(pairs, slice(0, 7)))
    for call in (lambda: queue.put(FILM[0]), lambda: queue.ask(WHAT), queue.flush, lambda: queue.stream(WHAT)):
        with pytest.raises(RuntimeError, match="closed"):
            call()
    assert session.ask(WHAT, **GREEDY)


def test_bad_frames_are_refused_where_they_are_put(session: Gated):
    with FrameQueue(session) as queue:
        queue.put(FILM[0])
        with pytest.raises(ValueError, match=r"frames must keep the stream's size: 56 x 56 so far, got 28 x 56"):
            queue.put(FILM[0, 28:])
        with pytest.raises(TypeError, match="frames must be uint8"):
            queue.put(FILM[0].astype(np.float32))
        with pytest.raises(ValueError, match="frames must have shape"):
            queue.put(FILM[0, 0])
        with pytest.raises(TypeError, match="frames must be an array or a tensor"):
            queue.put("frame")  # type: ignore[arg-type]
    assert session.stats.frames_in == 1


def test_bad_questions_leave_the_queue_as_it_was(session: Gated):
    with FrameQueue(session) as queue:
        with pytest.raises(ValueError, match="append frames first"):
            queue.ask(WHAT)
        queue.put(FILM[:2])
        with pytest.raises(TypeError, match="question must be a str"):
            queue.ask(3)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="remember must be False here"):
            queue.stream(WHAT, remember=True)
        with pytest.raises(TypeError, match="num_beams is not taken here"):
            queue.stream(WHAT, num_beams=2)
        assert queue.ask(WHAT, **GREEDY)


def test_bad_arguments(session: Gated):
    for arguments, error, message in [
        ((None,), TypeError, "session must be a StreamingSession, got NoneType"),
        ((session, 7), ValueError, "size must be at least 8, 4 steps of the model, got 7"),
        ((session, 8.0), TypeError, "size must be an integer, got float"),
        ((session, True), TypeError, "size must be an integer, got bool"),
        ((session, 8, "wait"), ValueError, "when_full must be one of block, drop_oldest, coalesce, got 'wait'"),
    ]:
        with pytest.raises(error, match=message):
            FrameQueue(*arguments)


def test_many_threads(session: Gated):
    """Whatever the order, every frame is read once, and all questions are answered."""
    with FrameQueue(session, 8) as queue:
        putting = [in_thread(lambda: [queue.put(frame) for frame in FILM[:20]]) for _ in range(3)]
        queue.put(FILM[:2])
        asking = [in_thread(lambda: queue.ask(WHAT, max_new_tokens=2)) for _ in range(3)]
        for thread, _ in (*putting, *asking):
            finished(thread)
        assert all(isinstance(answers[0], str) for _, answers in asking)
    assert session.stats.frames_in == 62
    assert session.stats.frames_skipped == 0


OPEN_AT_THE_END = """
import atexit
atexit.register(lambda: print("alive" if queue._thread.is_alive() else "ended"))  # first in, last out
import numpy as np
import streamprune_triton as sp
session = sp.StreamingSession(*sp.models.tiny.qwen2_5_vl())
queue = sp.FrameQueue(session)
queue.put(np.zeros((8, 84, 112, 3), np.uint8))
"""


def test_a_process_ends_with_an_open_queue():
    """A thread in the middle of PyTorch would abort it."""
    done = subprocess.run([sys.executable, "-c", OPEN_AT_THE_END], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


def test_a_queue_that_nobody_holds_reads_what_waits_and_ends(session: Gated):
    queue = FrameQueue(session, np.int64(8))  # type: ignore[arg-type]
    gone, thread = weakref.ref(queue), queue._thread
    session.gate.clear()
    queue.put(FILM[:4])
    assert session.reading.acquire(timeout=LONG)
    queue.put(FILM[4:8])
    del queue
    gc.collect()
    session.gate.set()
    finished(thread)
    assert gone() is None
    assert session.stats.frames_in == 8


def test_a_queue_that_nobody_holds_and_nothing_waits_in_ends(session: Gated):
    queue = FrameQueue(session)
    gone, thread = weakref.ref(queue), queue._thread
    del queue
    gc.collect()
    finished(thread)
    assert gone() is None
