"""What else a session does, on a device: questions, many streams, forks, files; the answers are the CPU's."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import unmodified
from streams import GREEDY, SOME, WHAT, fed

from streamprune_triton import FrameQueue, Memory, StreamingSession

COMPACT = Memory("hybrid", max_carriers=4, recent_frames=2, positions="compact")
FILMS = [unmodified.film(10, seed=seed) for seed in range(2)]
pytestmark = pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl"], indirect=True)
CHOICE = "streamprune_triton/streaming/generation.py: return int("  # a token has to be chosen


@pytest.fixture
def expected(family: tuple[Any, Any]) -> list[str]:
    """Of each film, what is answered after it on the CPU."""
    return [fed(family, film, 2, SOME, COMPACT).ask(WHAT, **GREEDY) for film in FILMS]


def test_many_streams(family: tuple[Any, Any], expected: list[str], away: Any) -> None:
    away()
    sessions = [StreamingSession(*family, SOME, COMPACT) for _ in FILMS]
    for n in range(0, 10, 5):
        StreamingSession.append_many(sessions, [film[n : n + 5] for film in FILMS])
    assert [session.ask(WHAT, **GREEDY) for session in sessions] == expected


def test_forks_and_files(family: tuple[Any, Any], expected: list[str], away: Any, tmp_path: Path) -> None:
    """A file of one device goes on on another."""
    begun = fed(family, FILMS[0][:6], 2, SOME, COMPACT)
    begun.save(tmp_path / "begun.safetensors")
    away()
    session = StreamingSession(*family, SOME, COMPACT)
    session.load(tmp_path / "begun.safetensors")
    fork = session.fork()
    for each in (session, fork):
        each.append(FILMS[0][6:])
        assert each.ask(WHAT, **GREEDY) == expected[0]
    fork.save(tmp_path / "far.safetensors")
    again = StreamingSession(*family, SOME, COMPACT)
    again.load(tmp_path / "far.safetensors")
    assert again.ask(WHAT, **GREEDY) == expected[0]


def test_a_dialogue_and_the_frames_behind_it(family: tuple[Any, Any], away: Any) -> None:
    def talk() -> list[str]:
        session = fed(family, FILMS[0][:5], 2, SOME, COMPACT)
        said = [session.ask(WHAT, remember=True, **GREEDY)]
        session.append(FILMS[0][5:])
        return [*said, "".join(session.stream("And now?", **GREEDY)), session.ask(WHAT, remember=True, **GREEDY)]

    expected = talk()
    away()
    assert talk() == expected


def test_frames_from_a_thread(family: tuple[Any, Any], expected: list[str], away: Any) -> None:
    away()
    session = StreamingSession(*family, SOME, COMPACT)
    with FrameQueue(session) as queue:
        for n in range(0, 10, 2):
            queue.put(FILMS[0][n : n + 2])
    assert session.ask(WHAT, **GREEDY) == expected[0]


@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "fixed shapes"])
def test_an_answer_waits_for_each_token(
    family: tuple[Any, Any], away: Any, waits: Counter[tuple[str, str]], graphs: bool
) -> None:
    away()
    session = fed(family, FILMS[0], 2, SOME, COMPACT, cuda_graphs=graphs)
    session.ask(WHAT, **GREEDY)
    waits.clear()
    session.ask(WHAT, **GREEDY)
    (only,) = {line for _, line in waits}
    assert only.startswith(CHOICE)
    assert waits.total() == GREEDY["max_new_tokens"]
