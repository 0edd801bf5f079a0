"""A call that fails leaves its sessions as they were, bit for bit, wherever it ends."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import unmodified
from streams import GREEDY, KINDS, SOME, WHAT, counts_of, fed, same_past

import streamprune_triton
from streamprune_triton import Memory, StreamingSession
from streamprune_triton.cache import CarrierCache, moves
from streamprune_triton.models import base
from streamprune_triton.models.base import Adapter
from streamprune_triton.streaming import ingest, reader

PACKAGE = str(Path(streamprune_triton.__file__).parent)
BOUNDS = {"qwen2_5_vl": 14, "qwen3_vl": 62, "llava_onevision": 30}  # tokens: a few pruned steps
MEMORIES = {
    "tokens": Memory("tokens"),
    "carriers": Memory("carriers", max_carriers=2),
    "hybrid": Memory("hybrid", max_carriers=3, recent_frames=1),
}
FILM = unmodified.film(16)


@pytest.fixture(scope="module", params=KINDS)
def family(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return unmodified.build(0, request.param)


@pytest.fixture(params=MEMORIES)
def memory(request: pytest.FixtureRequest, family: tuple[Any, Any]) -> Memory:
    found = MEMORIES[request.param]
    bound = BOUNDS[family[0].config.model_type] if request.param == "tokens" else None
    return replace(found, max_tokens=bound)


@pytest.fixture(scope="module")
def limited() -> tuple[Any, Any]:
    """A model with room for few positions."""
    model, processor = unmodified.build()
    model.config.get_text_config().max_position_embeddings = 130
    return model, processor


@pytest.fixture(params=[False, True], ids=["masked", "one by one"])
def one_by_one(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether sessions go as under FlashAttention, which takes no mask."""
    if request.param:
        monkeypatch.setattr(reader, "MASKED", ())
        monkeypatch.setattr(base, "attention_mask", None)
    return request.param


def failing(method: Callable[..., Any], at: int = 1, done: bool = True) -> Callable[..., Any]:
    """The method, whose call number `at` fails, with its work done or before it."""
    calls: list[int] = []

    def fails(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == at and not done:
            raise RuntimeError("out of memory")
        result = method(*args, **options)
        if len(calls) == at:
            raise RuntimeError("out of memory")
        return result

    return fails


def same_bits(a: StreamingSession, b: StreamingSession) -> bool:
    pairs = zip(a._past.cache.layers, b._past.cache.layers, strict=True)
    return same_past(a, b, 0.0) and all(
        torch.equal(one.keys, two.keys) and torch.equal(one.values, two.values) for one, two in pairs
    )


def assert_untouched(sessions: list[StreamingSession], others: list[StreamingSession]) -> None:
    for session, other in zip(sessions, others, strict=True):
        assert same_bits(session, other)
        assert counts_of(session) == counts_of(other)


PLACES = {
    "forward": (Adapter, "forward", True),
    "drop": (CarrierCache, "drop", False),
    "behind move": (moves, "move", True),
    "behind ingest": (ingest, "ingest", True),
}


@pytest.mark.parametrize("place", PLACES)
def test_wherever_an_append_fails(family, memory: Memory, one_by_one: bool, place: str, monkeypatch):
    session, other = (fed(family, FILM[:10], 2, SOME, memory) for _ in range(2))
    owner, name, done = PLACES[place]
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, failing(getattr(owner, name), done=done))
        with pytest.raises(RuntimeError, match="out of memory"):
            session.append(FILM[10:14])
    assert_untouched([session], [other])
    for each in (session, other):
        each.append(FILM[10:])
    assert_untouched([session], [other])
    assert session.ask(WHAT, **GREEDY) == other.ask(WHAT, **GREEDY)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
def test_wherever_an_append_to_several_fails(family, memory: Memory, one_by_one: bool, place: str, monkeypatch):
    """In the work for the second of them."""
    sessions, others = ([fed(family, FILM[n : 10 + n], 2, SOME, memory) for n in range(2)] for _ in range(2))
    owner, name, done = PLACES[place]
    at = 1 if place == "behind ingest" or (place == "forward" and not one_by_one) else 2
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, failing(getattr(owner, name), at, done))
        with pytest.raises(RuntimeError, match="out of memory"):
            StreamingSession.append_many(sessions, [FILM[12:14], FILM[14:16]])
    assert_untouched(sessions, others)


@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
def test_between_two_sessions_that_get_their_frames(family, memory: Memory, monkeypatch):
    sessions, others = ([fed(family, FILM[n : 10 + n], 2, SOME, memory) for n in range(2)] for _ in range(2))

    def interrupted(session: StreamingSession, name: str, value: Any) -> None:
        object.__setattr__(session, name, value)
        if session is sessions[0] and name == "_past" and value.steps == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(StreamingSession, "__setattr__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            StreamingSession.append_many(sessions, [FILM[12:14], FILM[14:16]])
    assert_untouched(sessions, others)


@pytest.mark.parametrize("done", [False, True])
def test_where_positions_are_closed_up(limited, done: bool, monkeypatch):
    """Behind the last step of a call, or on its way."""
    closed: list[int] = []
    for chunk in (2, 80):
        session, other = (
            StreamingSession(*limited, SOME, Memory("tokens", max_tokens=30, positions="compact")) for _ in range(2)
        )
        frames = unmodified.film(80, (56, 56))
        with monkeypatch.context() as patched:
            patched.setattr(CarrierCache, "rotate", failing(CarrierCache.rotate, 1, done))
            for n in range(0, 80, chunk):
                try:
                    session.append(frames[n : n + chunk])
                except RuntimeError:
                    closed.append(n)
                    assert_untouched([session], [other])
                    session.append(frames[n : n + chunk])
                other.append(frames[n : n + chunk])
        assert_untouched([session], [other])
    assert len(closed) == 2


@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
def test_an_interrupt_at_any_line(family, memory: Memory, one_by_one: bool):
    """Of those of this package that an append runs."""
    begun = fed(family, FILM[:10], 2, SOME, memory)
    after = begun.fork()
    lines = traced(lambda: after.append(FILM[10:12]), 0)
    for n in range(1, lines, 29):
        session = begun.fork()
        with pytest.raises(KeyboardInterrupt):
            traced(lambda session=session: session.append(FILM[10:12]), n)
        assert same_bits(session, begun) or same_bits(session, after)
    assert lines > 500


def traced(work: Callable[[], Any], stop: int) -> int:
    """How many lines of the package it runs; KeyboardInterrupt in front of line number `stop`.

    A line that begins with `with` is also run when its block ends, where Python delivers no signal: it does not count.
    """
    count = 0

    def line(frame: Any, event: str, _: Any) -> Any:
        nonlocal count
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        counts = event == "line" and not text.lstrip().startswith("with ")
        count += counts
        if counts and count == stop:
            sys.settrace(None)
            raise KeyboardInterrupt
        return line

    before = sys.gettrace()
    sys.settrace(lambda frame, *_: line if frame.f_code.co_filename.startswith(PACKAGE) else None)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_what_fails_copies_no_cache(family, memory: Memory, monkeypatch):
    session = fed(family, FILM[:10], 2, SOME, memory)
    storage = session._past.cache._rows.storage
    session.append(FILM[10:12])
    assert session._past.cache._rows._savepoint is None
    monkeypatch.setattr(Adapter, "forward", failing(Adapter.forward))
    with pytest.raises(RuntimeError, match="out of memory"):
        session.append(FILM[12:14])
    assert session._past.cache._rows.storage is storage
    assert session._past.cache._rows._savepoint is None


@pytest.mark.parametrize("chunk", [1, 6, 16])
def test_without_masks_a_session_is_what_it_is_with_them(family, memory: Memory, chunk: int, monkeypatch):
    masked = fed(family, FILM, chunk, SOME, memory)
    monkeypatch.setattr(reader, "MASKED", ())
    monkeypatch.setattr(base, "attention_mask", None)
    plain = fed(family, FILM, chunk, SOME, memory)
    assert plain._reader._one_by_one
    assert not masked._reader._one_by_one
    assert same_past(plain, masked)
    assert counts_of(plain) == counts_of(masked)
    assert plain.ask(WHAT, **GREEDY) == masked.ask(WHAT, **GREEDY)
