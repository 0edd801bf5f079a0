"""Compact positions: keys turned to where they would have been read, for ever below the model's limit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import unmodified
from streams import ATOL, KINDS, NOTHING, SOME, STREAMED, WHAT, Heard, answer, fed, order, same_past
from transformers import DynamicCache

from streamprune_triton import Memory, StreamingSession
from streamprune_triton.cache import CarrierCache, Rotary
from streamprune_triton.models.positions import Cursor
from streamprune_triton.streaming.compaction import compacted, relaid
from streamprune_triton.streaming.keeping import Death, Keeping
from streamprune_triton.streaming.past import Past
from streamprune_triton.streaming.rows import TOKEN

MEMORIES = [
    Memory("tokens", max_tokens=30, positions="compact"),
    Memory("carriers", max_carriers=5, positions="compact"),
    Memory("hybrid", max_carriers=5, recent_frames=2, positions="compact"),
]


@pytest.fixture(scope="module", params=KINDS)
def family(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return unmodified.build(0, request.param)


@pytest.fixture
def limited(family):
    """The model with room for few positions."""
    text = family[0].config.get_text_config()
    was, text.max_position_embeddings = text.max_position_embeddings, 130
    yield family
    text.max_position_embeddings = was


def shifted(past: Past, by: int, rotary: Rotary) -> Past:
    """The past with every position moved."""
    rows = past.rows
    cos, sin = rotary.tables(torch.full(rows.position.shape, by))
    past.cache.rotate(cos, sin, pairs=rotary.pairs)
    cursor = None if past.cursor is None else Cursor(past.cursor.start + by, past.cursor.steps)
    return replace(past, rows=rows.placed(rows.position + by), cursor=cursor, position=past.position + by)


@pytest.mark.parametrize("by", [1, 37, 4000])
@pytest.mark.parametrize("family", STREAMED, indirect=True)
def test_a_shift_of_all_positions_changes_no_answer(family, heard: Heard, by: int):
    session = fed(family, unmodified.film(10), 2, SOME, Memory("hybrid", recent_frames=2))
    expected = answer(session, heard)
    session._past = shifted(session._past, by, Rotary.of(session._reader.adapter.language_model))
    torch.testing.assert_close(answer(session, heard), expected, atol=1e-3, rtol=0)
    first = int(heard.positions[0].min())
    assert first == session._reader.end(session._past)
    session.append(unmodified.film(2))
    other = fed(family, unmodified.film(10), 2, SOME, Memory("hybrid", recent_frames=2))
    other.append(unmodified.film(2))
    torch.testing.assert_close(answer(session, heard), answer(other, heard), atol=1e-3, rtol=0)


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: memory.mode)
def test_an_endless_stream_stays_below_the_limit(limited, heard: Heard, memory: Memory, monkeypatch):
    closed = []
    rotate = CarrierCache.rotate
    monkeypatch.setattr(CarrierCache, "rotate", lambda self, *tables: (closed.append(1), rotate(self, *tables)))
    session = StreamingSession(*limited, SOME, memory)
    for n in range(130):
        session.append(unmodified.film(2, (56, 56), seed=n % 9))
        rows = session._past.rows
        assert max(rows.top, session._reader.end(session._past)) <= 130 - 130 // 8
        assert rows.position.min() == 0
    assert closed
    assert torch.isfinite(answer(session, heard)).all()
    assert session.stats.kv_tokens == session._past.cache.get_seq_length() < 200


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: memory.mode)
def test_the_order_of_positions_stays(family, memory: Memory):
    """Along the axis of time, and nothing moves within a step that is still whole."""
    session = fed(family, unmodified.film(24), 2, SOME, replace(memory, positions="absolute"))
    past = session._past
    layout, rotary = session._reader.layout(past.grid), Rotary.of(session._reader.adapter.language_model)
    before = past.rows
    after = compacted(past, layout, rotary).rows
    seq = order(session)
    assert np.array_equal(before.block, after.block)
    gone = before.position[0, seq], after.position[0, seq]
    assert (np.diff(gone[0])[np.diff(before.block[seq]) > 0] >= 0).all()
    assert (np.sign(np.diff(gone[1])) == np.sign(np.diff(gone[0])))[np.diff(before.block[seq]) > 0].all()
    assert (after.position <= before.position).all()
    assert (after.position < before.position).any()
    text = before.block == 0
    assert np.array_equal(after.position[:, text], before.position[:, text])


def test_closing_no_gap_changes_nothing(family):
    past = (session := fed(family, unmodified.film(8), 2, NOTHING)).fork()._past
    closed = compacted(past, session._reader.layout(past.grid), Rotary.of(session._reader.adapter.language_model))
    assert (closed.cursor, closed.position) == (past.cursor, session._reader.end(past))
    assert closed.rows.top == int(closed.rows.position.max()) + 1
    assert closed.top == max(closed.position, closed.rows.top)
    assert np.array_equal(closed.rows.position, past.rows.position)


@pytest.mark.parametrize("memory", MEMORIES[1:], ids=lambda memory: memory.mode)
@pytest.mark.parametrize("family", STREAMED, indirect=True)
def test_keys_are_those_of_a_model_that_read_them_there(family, heard: Heard, memory: Memory):
    """In the first layer, whose keys depend on their own token and position alone. Nothing is dropped, so that a
    row's slot is its number in what was read."""
    session = StreamingSession(*family, NOTHING, replace(memory, positions="absolute"))
    for frame in unmodified.film(24):
        session.append(frame[None])
    reader, seq = session._reader, order(session)
    past = compacted(session._past, reader.layout(session._past.grid), Rotary.of(reader.adapter.language_model))
    rows = past.rows.take(seq)
    assert len(np.unique(rows.block)) == 6 < len(heard.embeds)
    embeds = torch.stack([heard.embeds[block][slot] for block, slot in zip(rows.block, rows.slot, strict=True)])
    fresh = DynamicCache()
    reader.adapter.forward(embeds, torch.from_numpy(rows.position), fresh)
    torch.testing.assert_close(past.cache.layers[0].keys[:, :, seq], fresh.layers[0].keys, atol=ATOL, rtol=0)
    torch.testing.assert_close(past.cache.layers[0].values[:, :, seq], fresh.layers[0].values, atol=ATOL, rtol=0)


def test_a_compact_session_answers_as_long_as_nothing_is_closed(family, heard: Heard):
    frames = unmodified.film(10)
    compact = fed(family, frames, 2, SOME, Memory("carriers", positions="compact"))
    assert same_past(compact, fed(family, frames, 2, SOME, Memory("carriers")))
    assert compact.ask(WHAT, max_new_tokens=2)


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: memory.mode)
def test_chunks_do_not_matter(limited, memory: Memory):
    """Positions are closed up behind the same step, and none passes the limit, however many frames come at once."""
    frames = unmodified.film(120, (56, 56))
    sessions = [fed(limited, frames, chunk, SOME, memory) for chunk in (2, 14, 120)]
    for session in sessions:
        assert session._past.top <= 130 - 130 // 8
        assert same_past(session, sessions[0], 1e-3)


@pytest.mark.parametrize("family", KINDS, indirect=True)
@pytest.mark.parametrize("steps", [3, 200, 10**9])
def test_a_gap_leads_nowhere_beyond_the_limit(limited, heard: Heard, steps: int):
    """Nor is the model asked about times there."""
    memory, most = Memory("hybrid", max_carriers=2, recent_frames=1, positions="compact"), 130 - 130 // 8
    frames, kind = unmodified.film(6, (56, 56)), limited[0].config.model_type
    session = fed(limited, frames[:4], 2, SOME, memory)
    told = session._past.cursor.steps
    session.skip(steps * session._reader.adapter.frames_per_step)
    assert session._reader.end(session._past) <= most
    heard.clear()
    session.append(frames[4:])
    assert max(int(each.max()) for each in heard.positions) < 130
    assert session._past.top <= most
    assert session._past.steps == steps + 6 // session._reader.adapter.frames_per_step
    if kind == "qwen2_5_vl":
        moved = session._past.cursor.steps - told - 1
        assert moved == steps if steps == 3 else 8 < moved < most
        assert len(session._reader.layout(session._past.grid)._times) < 10 * most


def test_a_gap_is_the_same_in_parts(limited):
    frames = unmodified.film(6, (56, 56))
    one, two = (fed(limited, frames[:4], 2, SOME, MEMORIES[1]) for _ in range(2))
    one.skip(1000)
    for count in (10, 300, 690):
        two.skip(count)
    assert same_past(one, two)


def test_without_a_bound_of_its_own_memory_gives_up_the_oldest_steps(limited):
    """As many as it must for the rest to fit, and no other."""
    session = fed(limited, unmodified.film(120, (56, 56)), 2, SOME, Memory("tokens", positions="compact"))
    past, rows = session._past, session._past.rows
    held = [block for block, _ in past.keeping.visual]
    assert past.top <= 130 - 130 // 8
    assert 1 < held[0] == held[-1] - len(held) + 1
    assert held[-1] == past.number - 1
    assert set(rows.block[rows.kind == TOKEN]) == set(held)


def test_the_last_carrier_is_never_given_up():
    keeping = Keeping(Memory("carriers"))
    keeping.admit(1, 0, np.ones(2, np.float32))
    assert keeping.forget_oldest(4) == []
    keeping.admit(2, 0, np.ones(2, np.float32))
    assert keeping.forget_oldest(6) == [Death(1, True, 6)]


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: memory.mode)
def test_an_endless_dialogue_stays_below_the_limit(limited, memory: Memory, monkeypatch: pytest.MonkeyPatch):
    """Positions are closed up behind a remembered turn as well, where no video is open."""
    closed, rotate = [], CarrierCache.rotate
    monkeypatch.setattr(CarrierCache, "rotate", lambda self, *tables: (closed.append(1), rotate(self, *tables)))
    session = StreamingSession(*limited, SOME, replace(memory, max_dialogue=20))
    for n in range(8):
        session.append(unmodified.film(2, (56, 56), seed=n))
        session.ask(WHAT, remember=True, max_new_tokens=4, do_sample=False)
        past = session._past
        laid = relaid(past, session._reader.layout(past.grid))
        assert past.cursor is laid.cursor is None
        assert max(past.top, past.rows.top) <= 130 - 130 // 8
        assert laid.end <= past.position <= past.top
    assert closed


def test_text_that_alone_passes_the_limit_is_read(limited, heard: Heard):
    """Nothing is left to give up, then."""
    memory = Memory("carriers", max_carriers=1, positions="compact")
    session = fed(limited, unmodified.film(4), 2, SOME, memory, system="You see. " * 40)
    assert session._past.top > 130
    assert len(session._past.keeping.carriers) == 1
    assert torch.isfinite(answer(session, heard)).all()
