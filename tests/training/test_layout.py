"""What is trained is what runs: samples laid out for one forward, against sessions that stream with eviction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import unmodified

import streamprune_triton as sp
from streamprune_triton.models import tiny
from streamprune_triton.models.base import Adapter
from streamprune_triton.streaming.generation import Decoding
from streamprune_triton.training import Composer, Learner, Sample, carriers_only
from streamprune_triton.training.layout import IGNORED

SOME = sp.PruneConfig(temporal_threshold=0.9, spatial_threshold=0.6)
STAGES = {"carriers only": carriers_only(SOME), "carriers behind kept tokens": SOME}
MEMORIES = (
    sp.Memory("carriers", max_carriers=3),
    sp.Memory("hybrid", recent_frames=2, max_carriers=4),
    sp.Memory("tokens", max_tokens=40),
)
ATOL = 1e-4  # of logits, in float32


@pytest.fixture(scope="module", params=[name for name in tiny.NAMES if name not in unmodified.UNSTREAMED])
def family(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return unmodified.build(0, request.param)


def sample(frames: int = 11, fps: float = 2.0) -> Sample:
    return Sample(unmodified.film(frames), "What moves?", "a block", fps)


class Forced:
    """Makes sessions give a known answer, and keeps the logits that they would have chosen from."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ids: torch.Tensor) -> None:
        self.ids, self.logits = ids.tolist(), []
        monkeypatch.setattr(Decoding, "choose", self.choose)

    def choose(self, logits: torch.Tensor, seen: torch.Tensor) -> int:
        self.logits.append(logits)
        return self.ids[len(self.logits) - 1]


def streamed(
    family: tuple[Any, Any],
    sample: Sample,
    config: sp.PruneConfig,
    memory: sp.Memory,
    ids: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    system: str | None = None,
) -> torch.Tensor:
    """(n, V) the logits of a session that is asked behind the frames, which come in chunks of three."""
    forced = Forced(monkeypatch, ids)
    session = sp.StreamingSession(*family, config, memory, fps=sample.fps, system=system)
    for n in range(0, len(sample.frames), 3):
        session.append(sample.frames[n : n + 3])
    session.ask(sample.question, max_new_tokens=len(ids))
    return torch.stack(forced.logits)


@pytest.mark.parametrize("stage", STAGES)
def test_logits_are_those_of_a_session(family, stage: str, monkeypatch: pytest.MonkeyPatch):
    """Streaming with eviction, a last step that is not full, an answer of several tokens."""
    told, memory = sample(), sp.Memory("carriers")
    logits, ids = Learner(*family, STAGES[stage], memory).logits(told)
    expected = streamed(family, told, STAGES[stage], memory, ids, monkeypatch)
    torch.testing.assert_close(logits.detach(), expected, atol=ATOL, rtol=0)


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: memory.mode)
def test_the_other_memories_and_a_system_text(family, memory: sp.Memory, monkeypatch: pytest.MonkeyPatch):
    told = sample(14)
    logits, ids = Learner(*family, SOME, memory, system="Short.").logits(told)
    expected = streamed(family, told, SOME, memory, ids, monkeypatch, "Short.")
    torch.testing.assert_close(logits.detach(), expected, atol=ATOL, rtol=0)


def test_carriers_are_the_only_visual_input(family):
    """A plain causal forward over text, carriers and question at the session's positions is the first stage."""
    told = sample(12)
    compose = Composer(*family)
    adapter, inputs = compose.adapter, compose(told, carriers_only(SOME))
    count = len(inputs.embeds)
    assert torch.equal(inputs.mask, torch.ones(count, count, dtype=torch.bool).tril())
    first, last = adapter.text(chat(told.question))
    x = adapter.features(adapter.pixels(told.frames)).x
    layout, cursor = adapter.layout(first, tuple(x.shape[1:3]), told.fps, True), sp.models.positions.Cursor(len(first))
    rows, places = [adapter.embed(first)], [torch.arange(len(first)).expand(layout.axes, -1)]
    for n, frame in enumerate(x):
        before, behind = adapter.around(n, told.fps)
        place = layout.place(cursor, len(before), len(behind))
        rows += [adapter.embed(before), frame.mean((0, 1))[None], adapter.embed(behind)]
        area = frame.shape[0] * frame.shape[1]
        places += [place.positions[:, : len(before)], place.positions[:, len(before) + area :]]
        cursor = place.next
    rows.append(adapter.embed(last))
    places.append(layout.end(cursor) + torch.arange(len(last)).expand(layout.axes, -1))
    prompt = sum(map(len, rows))
    torch.testing.assert_close(torch.cat(rows), inputs.embeds[:prompt], atol=1e-5, rtol=0)
    assert torch.equal(torch.cat(places, 1), inputs.positions[:, :prompt])
    assert (inputs.labels[:prompt] == IGNORED).all()
    assert (inputs.labels[prompt:] != IGNORED).all()


def test_the_mask_is_the_semantic_one(family):
    compose, told = Composer(*family), sample(12)
    inputs = compose(told, SOME)
    result = sp.prune(compose.adapter.features(compose.adapter.pixels(told.frames)).x, SOME)
    opening = len(compose.adapter.text(chat(told.question))[0])
    frames, carriers = [-1] * opening, [False] * opening
    for n, count in enumerate(result.counts.tolist()):
        before, behind = (len(text) for text in compose.adapter.around(n, told.fps))
        frames += [-1] * before + [n] * (count + 1) + [-1] * behind
        carriers += [False] * (before + count) + [True] + [False] * behind
    rest = len(inputs.embeds) - len(frames)
    mask = sp.semantic_mask(torch.tensor(frames + [-1] * rest), torch.tensor(carriers + [False] * rest))
    assert 0 < result.drop_ratio < 1
    assert torch.equal(inputs.mask, mask[0, 0])


def test_the_answer_alone_is_learned_with_its_end(family):
    told = sample(4)
    model, processor = family
    compose = Composer(model, processor)
    labels = compose(told, SOME).labels
    learned = labels[labels != IGNORED]
    assert torch.equal(labels[-len(learned) :], learned)
    assert int(learned[-1]) in np.atleast_1d(model.generation_config.eos_token_id)
    text = processor.tokenizer.decode(learned, skip_special_tokens=True)
    assert text.strip() == told.answer
    assert (compose(replace(told, answer="no"), SOME).labels != IGNORED).sum() < len(learned)


def test_an_answer_that_a_template_begins_otherwise_when_it_is_over():
    """As those do that begin an answer with thoughts and leave them out of the turns before."""
    model, processor = unmodified.build(0, "qwen2_5_vl")
    text = Adapter.text
    thoughts = processor.tokenizer("<think>", add_special_tokens=False)["input_ids"]

    def thinking(self: Adapter, messages: list[dict[str, Any]], answer: bool = True) -> list[torch.Tensor]:
        *pieces, last = text(self, messages, answer)
        return [*pieces, torch.cat([last, torch.tensor(thoughts)]) if answer else last]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Adapter, "text", thinking)
        labels = Composer(model, processor)(sample(4), SOME).labels
    learned = labels[labels != IGNORED].tolist()
    words = processor.tokenizer("a block", add_special_tokens=False)["input_ids"]
    assert learned == [*words, model.generation_config.eos_token_id]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"frames": np.zeros((0, 84, 112, 3), np.uint8)}, "frames must be at least one"),
        ({"frames": np.zeros((2, 84, 112, 3), np.float32)}, "frames must be uint8"),
        ({"fps": 0.0}, "fps must be above 0"),
        ({"question": "<|video_pad|>"}, "must not name a video"),
        ({"answer": "<|video_pad|>"}, "must not name a video"),
    ],
)
def test_bad_samples(changed: dict[str, Any], message: str):
    compose = Composer(*unmodified.build(0, "qwen2_5_vl"))
    with pytest.raises((ValueError, TypeError), match=message):
        compose(replace(sample(4), **changed), SOME)


def test_bad_settings():
    model, processor = unmodified.build(0, "qwen2_5_vl")
    with pytest.raises(ValueError, match="positions must be"):
        Composer(model, processor, sp.Memory("carriers", positions="compact"))
    with pytest.raises(ValueError, match=r"config\.carrier must be"):
        Composer(model, processor)(sample(4), replace(SOME, carrier=None))
    with pytest.raises(ValueError, match="max_tokens must be at least"):
        Composer(model, processor, sp.Memory("tokens", max_tokens=2))(sample(4), SOME)


@pytest.mark.parametrize("family", unmodified.UNSTREAMED)
def test_a_family_without_sessions_is_refused(family: str):
    with pytest.raises(ValueError, match="use pruned"):
        Composer(*unmodified.build(0, family))(sample(4), SOME)


def chat(question: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}]
