"""Steps and answers as CUDA graphs: replays, on other numbers than those of the capture, hold what the CPU holds."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import elsewhere
import pytest
import torch
import unmodified
from elsewhere import NAME
from recorded import Recorded
from streams import GREEDY, SOME, WHAT, fed, same_past, told

from streamprune_triton import Memory, StreamingSession
from streamprune_triton.streaming import graphs
from streamprune_triton.transfer import upload

MEMORIES = {
    "tokens": Memory("tokens", max_tokens=60),
    "hybrid": Memory("hybrid", max_carriers=4, recent_frames=2, positions="compact"),
}
FILM = unmodified.film(24)
SOME_FAMILIES = pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl_moe", "internvl"], indirect=True)
OLDER = pytest.mark.filterwarnings("ignore:cuda_graphs. the tower runs without")  # releases of transformers
replayed: list[Recorded] = []


@pytest.fixture
def streamed(family: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    kind = family[0].config.model_type
    if kind in unmodified.UNSTREAMED:
        pytest.skip(f"no session runs on {kind}")
    call = graphs.Replay.__call__
    monkeypatch.setattr(graphs, "Replay", Recorded)
    monkeypatch.setattr(Recorded, "__call__", lambda self, *a: (replayed.append(self), call(self, *a))[1])
    replayed.clear()


def refusals(family: tuple[Any, Any]) -> AbstractContextManager[Any]:
    """What a session says of a tower that copies to the device what it has derived on the host."""
    if told(StreamingSession(*family)._reader.adapter):
        return nullcontext()
    return pytest.warns(UserWarning, match="the tower runs without, it cannot be captured: operation not permitted")


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
def test_a_session_of_replays(family: tuple[Any, Any], away: Any, streamed: None, memory: Memory) -> None:
    def talk(**options: Any) -> tuple[list[str], list[StreamingSession]]:
        session = fed(family, FILM[:12], 2, SOME, memory, **options)
        said = [session.ask(WHAT, remember=True, **GREEDY)]
        both = [session, session.fork()]
        for each in both:
            for n in range(12, 24, 2):
                each.append(FILM[n : n + 2])
            said.append(each.ask(WHAT, **GREEDY))
        return said, both

    expected, sessions = talk()
    away()
    captures = told(sessions[0]._reader.adapter)
    with refusals(family):
        said, both = talk(cuda_graphs=True)
    assert said == expected
    assert all(same_past(*pair) for pair in zip(sessions, both, strict=True))
    assert len(replayed) >= 18 * (1 + captures), "a tower and a step for each two frames, then questions"
    assert len(set(map(id, replayed))) < 20, "most are not of the numbers that were captured"


@OLDER
@SOME_FAMILIES
def test_many_streams_and_files_and_an_answer_while_frames_come(
    family: tuple[Any, Any], away: Any, streamed: None, tmp_path: Path
) -> None:
    def talk(name: str, **options: Any) -> list[str]:
        both = [StreamingSession(*family, SOME, MEMORIES["hybrid"], **options) for _ in range(2)]
        for n in range(0, 8, 2):
            StreamingSession.append_many(both, [FILM[n : n + 2], FILM[n + 8 : n + 10]])
        both[0].save(tmp_path / name)
        both[1].load(tmp_path / name)
        pieces = both[1].stream(WHAT, **GREEDY)
        said = [next(pieces)]
        for n in range(8, 16, 2):
            for each in both:
                each.append(FILM[n : n + 2])
        return ["".join([*said, *pieces]), *(each.ask(WHAT, **GREEDY) for each in both)]

    expected = talk("here")
    away()
    assert talk("there", cuda_graphs=True) == expected
    assert replayed


@OLDER
@SOME_FAMILIES
def test_what_was_returned_is_not_written_again(family: tuple[Any, Any], away: Any, streamed: None) -> None:
    away()
    session = fed(family, FILM[:4], 2, SOME, MEMORIES["tokens"], cuda_graphs=True)
    reader, cache = session._reader, session._past.cache
    adapter, inside = reader.adapter, reader._graphs
    assert inside is not None
    first, second = (adapter.pixels(FILM[n : n + 2]) for n in (4, 8))
    words, where = adapter.embed(torch.tensor([5, 6])), torch.full((reader.axes, 1), 99)
    for of, one, two in (
        (lambda pixels: inside.features(pixels).x, first, second),
        (lambda word: inside.text(cache, word, where), words[:1], words[1:]),
    ):
        found = of(one)
        before = found.cpu()
        assert not torch.equal(of(two).cpu(), before)
        assert torch.equal(found.cpu(), before)
    assert replayed


def test_a_capture_executes_nothing_and_a_replay_everything() -> None:
    held = torch.zeros(3, device=NAME)
    replay = Recorded(lambda x: held.add_(x) * 2, (torch.ones(3, device=NAME),))
    assert held.tolist() == [2, 2, 2], "of the two trials"
    assert replay._output.isnan().all()
    assert replay(torch.full((3,), 5.0, device=NAME)).tolist() == [14, 14, 14]
    assert held.tolist() == [7, 7, 7]


def test_a_number_of_the_host_stays_that_of_the_capture() -> None:
    row, x = [0], torch.arange(3.0, device=NAME)
    replay = Recorded(lambda x: x[row[0]] + row[0], (x,))
    row[0] = 2
    assert replay(x + 1).item() == 1


@pytest.mark.parametrize(
    "work",
    [lambda x: x[x.argmax().item()], lambda x: x[x > 0], lambda x: x + upload(torch.ones(3), NAME), lambda x: x.cpu()],
    ids=["value", "mask", "upload", "download"],
)
def test_what_cannot_be_captured_is_an_error(work: Any) -> None:
    with pytest.raises(RuntimeError, match="when stream is capturing"):
        Recorded(work, (torch.ones(3, device=NAME),))
    assert elsewhere.tape is None
