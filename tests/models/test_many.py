"""Many streams on one model: in one forward, and in threads, each as if it were alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import unmodified
from streams import GREEDY, KINDS, SOME, STREAMED, WHAT, Heard, answer, counts_of, fed, same_past

from streamprune_triton import Memory, PruneConfig, StreamingSession
from streamprune_triton.models.base import Adapter
from streamprune_triton.streaming import reader

MEMORIES = [
    Memory("tokens", max_tokens=30),
    Memory("carriers", max_carriers=3),
    Memory("hybrid", max_carriers=4, recent_frames=2),
]


@pytest.fixture(scope="module", params=KINDS)
def family(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return unmodified.build(0, request.param)


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: memory.mode)
@pytest.mark.parametrize("family", STREAMED, indirect=True)
def test_streams_in_one_forward_are_as_alone(family, heard: Heard, memory: Memory):
    """Of other lengths, one of them without a frame in some of the calls."""
    films = [unmodified.film(16, seed=seed) for seed in range(3)]
    cuts = [[0, 2, 7, 16], [0, 4, 4, 12], [0, 0, 9, 10]]
    together = [StreamingSession(*family, SOME, memory) for _ in films]
    for n in range(3):
        heard.clear()
        given = [film[cut[n] : cut[n + 1]] for film, cut in zip(films, cuts, strict=True)]
        results = StreamingSession.append_many(together, given)
        assert len(heard.embeds) == 1
        for result, more in zip(results, given, strict=True):
            assert (result is None) == (len(more) == 0) or len(more) % 2
    for session, film, cut in zip(together, films, cuts, strict=True):
        alone = StreamingSession(*family, SOME, memory)
        for begin, end in pairwise(cut):
            alone.append(film[begin:end])
        assert same_past(session, alone)
        assert counts_of(session) == counts_of(alone)
        torch.testing.assert_close(answer(session, heard), answer(alone, heard), atol=1e-4, rtol=0)


def test_streams_of_other_sizes_share_a_forward(heard: Heard):
    family = unmodified.build()
    films = [unmodified.film(6, (84, 112)), unmodified.film(6, (56, 84))]
    together = [StreamingSession(*family, SOME, Memory("carriers")) for _ in films]
    heard.clear()
    StreamingSession.append_many(together, films)
    assert len(heard.embeds) == 1
    for session, film in zip(together, films, strict=True):
        assert same_past(session, fed(family, film, 6, SOME, Memory("carriers")))


@pytest.mark.parametrize("together", [True, False])
def test_a_failed_call_leaves_all_streams_as_they_were(family, monkeypatch: pytest.MonkeyPatch, together: bool):
    """Also where streams are too long for one forward, and a later one fails."""
    monkeypatch.setattr(reader, "ROWS", 4096 if together else 5)
    calls: list[int] = []
    films = [unmodified.film(8, seed=seed) for seed in range(2)]
    memory = Memory("carriers", max_carriers=2)
    sessions, untouched = ([fed(family, film[:4], 2, SOME, memory) for film in films] for _ in range(2))
    rest = [film[4:] for film in films]
    with pytest.raises(ValueError, match=r"frames\[1\] must keep the stream's size"):
        StreamingSession.append_many(sessions, [rest[0], rest[1][:, :56]])
    forward = Adapter.forward

    def fails(self: Adapter, *args: Any) -> Any:
        hidden = forward(self, *args)
        calls.append(1)
        if together or len(calls) == 4:  # two streams of two rounds each
            raise RuntimeError("out of memory")
        return hidden

    with monkeypatch.context() as patched:
        patched.setattr(Adapter, "forward", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            StreamingSession.append_many(sessions, rest)
    for session, other in zip(sessions, untouched, strict=True):
        assert same_past(session, other)
        assert counts_of(session) == counts_of(other)
    StreamingSession.append_many(sessions, rest)
    for session, film in zip(sessions, films, strict=True):
        assert same_past(session, fed(family, film, 4, SOME, memory))


def test_bad_arguments(family):
    one, two = (StreamingSession(*family, SOME) for _ in range(2))
    frames = unmodified.film(2)
    for sessions, given, error, name in (
        ([one, two], [frames], ValueError, "frames"),
        ([one, two], frames, ValueError, "frames"),
        ([one, one], [frames, frames], ValueError, "sessions"),
        ([one, 3], [frames, frames], TypeError, r"sessions\[1\]"),
        ([one, StreamingSession(*family, PruneConfig())], [frames, frames], ValueError, r"sessions\[1\]"),
        ([one, StreamingSession(*family, SOME, Memory("carriers"))], [frames, frames], ValueError, r"sessions\[1\]"),
        ([one, StreamingSession(*unmodified.build(1), SOME)], [frames, frames], ValueError, r"sessions\[1\]"),
    ):
        with pytest.raises(error, match=name):
            StreamingSession.append_many(sessions, given)
    assert StreamingSession.append_many([], []) == []
    assert one.stats.frames_in == two.stats.frames_in == 0


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: memory.mode)
@pytest.mark.parametrize("family", STREAMED, indirect=True)
def test_threads_do_not_touch_each_other(family, memory: Memory):
    """Four sessions on one model at once, each with frames and questions of its own."""

    def watch(seed: int) -> tuple[StreamingSession, list[str]]:
        frames = unmodified.film(12, seed=seed)
        session = StreamingSession(*family, SOME, memory)
        answers = []
        for n in range(0, 12, 2):
            session.append(frames[n : n + 2])
            answers.append(session.ask(WHAT, **GREEDY))
        return session, answers

    with ThreadPoolExecutor(4) as pool:
        beside = list(pool.map(watch, range(4)))
    alone = [watch(seed) for seed in range(4)]
    for (session, answers), (other, expected) in zip(beside, alone, strict=True):
        assert answers == expected
        assert same_past(session, other)


def test_forks_in_threads(family):
    """The shared past is copied by whoever writes first, whole."""
    frames = unmodified.film(8)
    memory = Memory("carriers", max_carriers=3)
    session = fed(family, frames, 2, SOME, memory)
    forks = [session.fork() for _ in range(4)]
    films = [unmodified.film(8, seed=seed) for seed in range(4)]

    def watch(n: int) -> str:
        for each in np.split(films[n], 4):
            forks[n].append(each)
        return forks[n].ask(WHAT, **GREEDY)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(watch, range(4)))
    for n, fork in enumerate(forks):
        alone = fed(family, np.concatenate([frames, films[n]]), 2, SOME, memory)
        assert same_past(fork, alone)
        assert answers[n] == alone.ask(WHAT, **GREEDY)
