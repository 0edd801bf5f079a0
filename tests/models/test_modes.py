"""What stays of a frame in each memory mode, against one forward of everything, and against the rules by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import unmodified
from streams import ATOL, KINDS, NOTHING, SOME, STREAMED, WHAT, Heard, answer, fed, same_past

from streamprune_triton import Memory, PruneConfig, StreamingSession, prune, semantic_mask
from streamprune_triton.cache import rows
from streamprune_triton.models.base import DeepStack
from streamprune_triton.models.positions import Cursor
from streamprune_triton.streaming import reader
from streamprune_triton.streaming.keeping import cosine
from streamprune_triton.streaming.rows import CARRIER, FRAME_BEGIN, FRAME_END, TEXT, TOKEN
from streamprune_triton.streaming.steps import pooled

MODES = {
    "carriers": Memory("carriers"),
    "hybrid": Memory("hybrid", recent_frames=2),
    "hybrid of none": Memory("hybrid", recent_frames=0),
}


@pytest.fixture(scope="module", params=STREAMED)
def family(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return unmodified.build(0, request.param)


def whole(session: StreamingSession, heard: Heard, recent: int) -> torch.Tensor:
    """(L, D) hidden states of all that a session was given, in one forward under the semantic-aware mask.

    The session must have read its frames one step at a time, and then a question of one forward.
    """
    adapter, rows = session._reader.adapter, session._past.rows
    frames, carriers = [], []
    for n, embeds in enumerate(heard.embeds):
        step = 0 < n <= session.stats.steps
        frame = torch.full((len(embeds),), n - 1 if step else -1)
        carrier = torch.zeros(len(embeds), dtype=torch.bool)
        if step:
            before, behind = (int(((rows.kind == kind) & (rows.block == n)).sum()) for kind in (FRAME_BEGIN, FRAME_END))
            frame[:before], frame[len(frame) - behind :] = -1, -1
            carrier[len(frame) - behind - 1] = True
        frames.append(frame)
        carriers.append(carrier)
    mask = semantic_mask(torch.cat(frames), torch.cat(carriers), recent_frames=recent)[0, 0]
    from transformers import DynamicCache

    return adapter.forward(
        torch.cat(heard.embeds), torch.cat(heard.positions, 1), DynamicCache(), mask, _stacked(heard)
    )


def _stacked(heard: Heard) -> DeepStack | None:
    given = [stack for stack in heard.deepstack if stack is not None]
    if not given:
        return None
    at = [
        torch.zeros(len(embeds), dtype=torch.bool) if stack is None else stack.at
        for embeds, stack in zip(heard.embeds, heard.deepstack, strict=True)
    ]
    return DeepStack(torch.cat(at), tuple(torch.cat(levels) for levels in zip(*(s.levels for s in given), strict=True)))


@pytest.mark.parametrize("mode", MODES)
def test_streaming_with_eviction_is_one_forward_under_the_mask(family, heard: Heard, mode: str):
    memory = MODES[mode]
    recent = memory.recent_frames if memory.mode == "hybrid" else 0
    frames = unmodified.film(12)
    session = StreamingSession(*family, SOME, memory)
    for frame in frames:
        session.append(frame[None])
    session.ask(WHAT, max_new_tokens=1)
    logits = session._reader.adapter.logits(whole(session, heard, recent)[-1:])[0]
    torch.testing.assert_close(heard.logits[0], logits, atol=ATOL, rtol=0)
    for chunk in (2, 7, 12):
        other = fed(family, frames, chunk, SOME, memory)
        torch.testing.assert_close(answer(other, heard, max_new_tokens=1)[0], logits, atol=ATOL, rtol=0)


@pytest.mark.parametrize(
    "memory",
    [
        Memory("carriers", max_carriers=3),
        Memory("hybrid", max_carriers=4, recent_frames=3),
        Memory("hybrid", max_carriers=2, recent_frames=4, max_tokens=30),
        Memory("tokens", max_tokens=40),
    ],
    ids=lambda memory: f"{memory.mode} {memory.max_carriers}",
)
def test_chunks_do_not_matter(family, memory: Memory):
    frames = unmodified.film(16)
    one = fed(family, frames, 1, SOME, memory)
    for chunk in (2, 5, 16):
        assert same_past(one, fed(family, frames, chunk, SOME, memory))


def test_what_stays(family):
    """Text for ever, the carriers of the frames that the rule leaves, the tokens of the newest."""
    frames = unmodified.film(20)
    for memory in (Memory("carriers", max_carriers=4), Memory("hybrid", max_carriers=6, recent_frames=3)):
        session = StreamingSession(*family, SOME, memory)
        opening = len(session._reader.talk.opening)
        carriers: list[tuple[int, np.ndarray]] = []
        kept: dict[int, int] = {}
        for n in range(0, 20, session._reader.adapter.frames_per_step):
            result = session.append(frames[n : n + session._reader.adapter.frames_per_step])
            number = n // session._reader.adapter.frames_per_step + 1
            carriers.append((number, result.carriers[0].double().numpy()))
            kept[number] = int(result.counts[0])
            if len(carriers) > memory.max_carriers:
                drop_most_similar(carriers, 3 if memory.mode == "hybrid" else 0)
            rows = session._past.rows
            assert sorted(rows.block[rows.kind == CARRIER]) == [number for number, _ in carriers]
            newest = range(max(1, number - memory.recent_frames + 1), number + 1) if memory.mode == "hybrid" else []
            held = rows.block[rows.kind == TOKEN]
            assert {int(n): int((held == n).sum()) for n in held} == {n: kept[n] for n in newest if kept[n]}
            assert int((rows.kind == TEXT).sum()) == opening
            assert set(rows.block[rows.kind >= FRAME_BEGIN]) <= {number for number, _ in carriers}
            assert session.stats.carriers == len(carriers)
            assert session.stats.kv_tokens == len(rows) == session._past.cache.get_seq_length()


def drop_most_similar(carriers: list[tuple[int, np.ndarray]], recent: int) -> None:
    """The older of the most similar neighbours goes; of several pairs the oldest; none that is recent."""
    cosines = []
    for (_, a), (_, b) in list(pairwise(carriers))[: len(carriers) - recent]:
        cosines.append(float(a @ b / np.sqrt((a @ a) * (b @ b))))
    del carriers[cosines.index(max(cosines))]


def test_what_stays_of_a_call_does_not_hold_the_rest(family):
    session = fed(family, unmodified.film(16), 16, SOME, Memory("carriers", max_carriers=2))
    held = session._past.keeping.carriers
    assert len(held) == 2
    assert all(carrier.base is None for _, carrier in held)


def test_an_evicted_frame_is_not_seen(family, heard: Heard):
    """With one carrier kept, the answer after a chunk is that of a session whose cache holds nothing else."""
    frames = unmodified.film(12)
    memory = Memory("carriers", max_carriers=1)
    session = fed(family, frames, 12, SOME, memory)
    assert len(set(session._past.rows.block)) == 2
    logits = answer(session, heard)
    torch.testing.assert_close(logits, answer(fed(family, frames, 1, SOME, memory), heard), atol=ATOL, rtol=0)
    assert not torch.allclose(logits[0], answer(fed(family, frames, 1, SOME, Memory("carriers")), heard)[0], atol=ATOL)


def test_a_carrier_stands_behind_its_frame_or_at_its_centre(family):
    """The one after its frame's last token where positions are 1-D; else the frame's time and the grid's centre."""
    session = fed(family, unmodified.film(12), 1, SOME, Memory("carriers"))
    rows, (h, w), reader = session._past.rows, session._past.grid, session._reader
    cursor = Cursor(len(reader.talk.opening))
    for n in range(session.stats.steps):
        before, behind = (len(text) for text in reader.adapter.around(n, 1.0))
        place = reader.layout((h, w)).place(cursor, before, behind)
        carrier = rows.position[:, (rows.block == n + 1) & (rows.kind == CARRIER)]
        assert carrier.shape[1] == 1
        if len(carrier) == 1:
            assert carrier[0, 0] == place.positions[0, before + h * w - 1] + 1
        else:
            centre = place.positions[:, before + h // 2 * w + w // 2]
            assert carrier[:, 0].tolist() == centre.tolist()
        cursor = place.next


def test_modes_need_carriers(family):
    config = PruneConfig(carrier=None)
    for mode in ("carriers", "hybrid"):
        with pytest.raises(ValueError, match=r"config\.carrier"):
            StreamingSession(*family, config, Memory(mode))
    StreamingSession(*family, config, Memory("tokens"))


def test_bad_memories():
    for arguments, error in (
        ({"mode": "all"}, ValueError),
        ({"positions": "relative"}, ValueError),
        ({"max_carriers": 0}, ValueError),
        ({"max_carriers": 2.0}, TypeError),
        ({"recent_frames": -1}, ValueError),
        ({"recent_frames": None}, TypeError),
        ({"max_tokens": 0}, ValueError),
        ({"max_dialogue": -1}, ValueError),
    ):
        with pytest.raises(error, match=next(iter(arguments))):
            Memory(**arguments)


@pytest.mark.parametrize("carrier", ["all", "kept"])
def test_a_carriers_deepstack_row_is_the_mean_over_the_tokens_that_it_is_of(carrier: str):
    """Of a frame none of whose tokens is kept, over all; one that is not finite is left out."""
    x = torch.randn(3, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    x[1] = x[0]
    config = PruneConfig(0.9, 0.2, carrier=carrier)
    result = prune(x, config)
    assert [bool(kept.any()) for kept in result.keep] == [True, False, True]
    level = torch.randint(-9, 9, (3, 3, 4, 5), generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    level[1, 2, 3] = torch.inf
    for n, mean in enumerate(pooled(level, result, config)):
        of = result.keep[n] if carrier == "kept" and n != 1 else level[n].isfinite().all(-1)
        assert torch.equal(mean, (level[n][of].float().sum(0) / of.sum()).to(torch.bfloat16))


@pytest.mark.parametrize("family", KINDS, indirect=True)
@pytest.mark.parametrize(
    "memory",
    [Memory("tokens", max_tokens=70), Memory("carriers", max_carriers=9), Memory("hybrid", 7, recent_frames=3)],
    ids=lambda memory: memory.mode,
)
def test_memory_is_taken_once_and_hardly_more_than_is_needed(family, memory: Memory, monkeypatch: pytest.MonkeyPatch):
    """At the first step, for all that the bounds allow."""
    monkeypatch.setattr(rows, "FIRST_CAPACITY", 1)
    monkeypatch.setattr(reader, "QUESTION", 0)
    session = StreamingSession(*family, NOTHING, memory, fps=4.0)
    step = session._reader.adapter.frames_per_step
    held, storages = 0, []
    for n in range(18):
        session.append(unmodified.film(step, seed=n))
        storages.append(session._past.cache._rows.storage)
        held = max(held, len(session._past.rows))
    h, w = session._past.grid
    assert all(storage is storages[0] for storage in storages)
    assert storages[0].capacity <= held + 3 * h * w


@pytest.mark.parametrize(
    ("other", "likeness"),
    [([6, 8], 1), ([-4, 3], 0), ([-3, -4], -1), ([0, 0], 0), ([np.nan, 1], 0), ([np.inf, -np.inf], 0)],
    ids=str,
)
def test_how_alike_two_carriers_are(other: list[float], likeness: float):
    """Not at all where one has no direction, or none that can be told."""
    assert cosine(np.array([3, 4], np.float32), np.array(other, np.float32)) == likeness
