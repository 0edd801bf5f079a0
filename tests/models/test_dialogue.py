"""Remembered turns: a conversation in which each turn may bring frames, as the unmodified model would be given it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import unmodified
from streams import ATOL, GREEDY, KINDS, NOTHING, SOME, STREAMED, WHAT, Heard, answer, counts_of, fed, same_past

from streamprune_triton import Memory, StreamingSession
from streamprune_triton.streaming.generation import Decoding

SHORT = {"max_new_tokens": 4, "do_sample": False}


@pytest.fixture(scope="module", params=KINDS)
def family(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return unmodified.build(0, request.param)


def told(session: StreamingSession, heard: Heard) -> torch.Tensor:
    """(D,) the last hidden state of all that was read, put to the model once more, in one causal forward."""
    from transformers import DynamicCache

    return session._reader.adapter.forward(
        torch.cat(heard.embeds), torch.cat(heard.positions, 1), DynamicCache(), None, _stack(heard)
    )[-1]


def _stack(heard: Heard) -> Any:
    from streamprune_triton.models.base import DeepStack

    stacks = [stack for stack in heard.deepstack if stack is not None]
    if not stacks:
        return None
    pairs = zip(heard.embeds, heard.deepstack, strict=True)
    at = torch.cat([torch.zeros(len(e), dtype=torch.bool) if s is None else s.at for e, s in pairs])
    return DeepStack(at, tuple(torch.cat(levels) for levels in zip(*(s.levels for s in stacks), strict=True)))


def conversation(session: StreamingSession, films: list[np.ndarray], questions: list[str]) -> list[str]:
    """Answers, all remembered; a film may be empty."""
    answers = []
    for film, question in zip(films, questions, strict=True):
        if len(film):
            session.append(film)
        answers.append(session.ask(question, remember=True, **SHORT))
    return answers


def test_what_is_read_is_the_conversation(family, heard: Heard):
    """The template's text of all turns, in order, around the visual tokens."""
    session = StreamingSession(*family, NOTHING)
    films = [unmodified.film(4), unmodified.film(0), unmodified.film(2, seed=1), unmodified.film(0)]
    questions = ["One?", "Two?", "Three?", "Four?"]
    answers = conversation(session, films, questions)
    adapter = session._reader.adapter
    messages: list[dict[str, Any]] = []
    for film, question, said in zip(films, questions, answers, strict=True):
        content: list[dict[str, str]] = [{"type": "video"}] if len(film) else []
        messages.append({"role": "user", "content": [*content, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": said})
    first, second, last = adapter.text(messages, answer=False)
    ids = [*range(len(adapter.model.get_input_embeddings().weight)), adapter.video_token_id]
    read, table = torch.cat(heard.embeds), adapter.embed(torch.tensor(ids))
    steps = [4 // adapter.frames_per_step, 2 // adapter.frames_per_step]
    around = [[len(text) for text in adapter.around(n, 1.0)] for n in range(sum(steps))]
    area = session._past.grid[0] * session._past.grid[1]
    sizes = [sum(area + sum(each) for each in around[: steps[0]]), sum(area + sum(each) for each in around[steps[0] :])]
    is_text = [bool((each == table).all(1).any()) for each in read]
    assert sum(sizes) - sum(sum(each) for each in around) == is_text.count(False)
    words = [ids[int((each == table).all(1).nonzero()[0])] for each, text in zip(read, is_text, strict=True) if text]
    behind = sum(sum(each) for each in around)
    decode = adapter.processor.tokenizer.decode
    said = decode(words).replace(" ", "")
    whole = decode(torch.cat([first, second, last])).replace(" ", "")
    assert behind or whole.startswith(said)
    assert behind or 0 < len(whole) - len(said) < 14  # what ends the last turn is read with the next


@pytest.mark.parametrize(
    ("family", "token", "between", "begin"),
    [("video_llama_3", "<|video_pad|>", ",", "Time 4.0s:"), ("internvl", "<video>", "\n", "Frame5: ")],
    indirect=["family"],
)
def test_a_later_clip_begins_as_a_video_does(family, heard: Heard, token: str, between: str, begin: str):
    """Also behind frames that never came; what stands between two frames stands between those of one clip alone."""
    model, processor = family
    text = unmodified.spelled(model.config.model_type, token, 8, 0, 1.0)
    clip = begin + text.split(between + begin)[1]
    skipped = StreamingSession(*family, NOTHING)
    skipped.skip(4)
    heard.clear()
    skipped.append(unmodified.film(4))
    assert words(skipped, heard) == clip
    session = fed(family, unmodified.film(4), 4)
    asked = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "?"}]}
    messages = [asked, {"role": "assistant", "content": "@@"}, asked]
    session.ask(WHAT, remember=True, **SHORT)
    heard.clear()
    session.append(unmodified.film(4))
    front = processor.apply_chat_template(messages, tokenize=False).split(token)[1].partition("@@")[2]
    assert words(session, heard) == front + clip


@pytest.mark.parametrize("family", ["video_llama_3", "internvl"], indirect=True)
def test_room_is_looked_for_where_a_later_clip_begins(family):
    session = fed(family, unmodified.film(4), 4, NOTHING, Memory("carriers", positions="compact"))
    session.ask(WHAT, remember=True, **SHORT)
    reader, past = session._reader, session.fork()._past
    opened = reader.open(past)
    behind, _ = reader.closing._behind(reader.layout(past.grid), opened.cursor, past.steps)
    session.append(unmodified.film(1))
    assert session._past.cursor == behind


def words(session: StreamingSession, heard: Heard) -> str:
    """The text that was read, without the visual tokens."""
    adapter, read = session._reader.adapter, torch.cat(heard.embeds)
    table = adapter.embed(torch.arange(len(adapter.model.get_input_embeddings().weight)))
    ids = [int(same.nonzero()[0]) for each in read if (same := (each == table).all(1)).any()]
    return adapter.processor.tokenizer.decode(ids)


@pytest.mark.parametrize("family", STREAMED, indirect=True)
def test_turns_follow_each_other(family, heard: Heard):
    """An answer is that of the model which reads all so far in one causal forward; text never falls behind."""
    session = StreamingSession(*family, NOTHING)
    for n in range(3):
        session.append(unmodified.film(4, seed=n))
        behind = session._reader.end(session._past)
        session.ask(WHAT, remember=True, **SHORT)
        assert session._past.cursor is None
        assert session._past.position > behind
    session.ask(WHAT, max_new_tokens=1)
    expected = session._reader.adapter.logits(told(session, heard)[None])[0]
    torch.testing.assert_close(heard.logits[-1], expected, atol=ATOL, rtol=0)


def test_a_question_sees_the_turns_before(family, heard: Heard):
    session = fed(family, unmodified.film(4), 4)
    alone = answer(session, heard)
    assert torch.equal(answer(session, heard), alone)
    session.ask("Remember this.", remember=True, **SHORT)
    assert not torch.allclose(answer(session, heard)[0], alone[0], atol=ATOL)
    remembered = answer(session, heard)
    assert torch.equal(answer(session, heard), remembered)
    assert session.stats.kv_tokens == session._past.cache.get_seq_length()


def test_a_waiting_frame_is_taken_with_a_remembered_turn(family):
    frames = unmodified.film(4)
    session = fed(family, frames[:3], 3, SOME)
    session.ask(WHAT, remember=True, **SHORT)
    assert len(session._past.waiting) == 0
    steps = -(-3 // session._reader.adapter.frames_per_step)
    assert session._past.steps == steps
    session.append(frames)
    assert session._past.steps == steps + 4 // session._reader.adapter.frames_per_step


def test_the_oldest_turns_leave_first(family):
    session = fed(family, unmodified.film(4), 4, NOTHING, Memory(max_dialogue=150))
    before = session.stats.kv_tokens
    sizes, said = [], []
    for n in range(8):
        session.ask(f"Question number {n}?", remember=True, **SHORT)
        sizes.append(session.stats.kv_tokens)
        assert session.stats.kv_tokens <= before + 150
        assert len(session._past.turns) <= 8
        said.append(session._past.said)
    assert said[0] < said[-1]  # for a penalty on repetitions, which looks at all that was read
    assert sizes[0] < sizes[1]
    assert sizes[-1] < 8 * (sizes[0] - before) + before
    assert session.stats.kv_tokens == len(session._past.rows) == session._past.cache.get_seq_length()
    held = session.stats.kv_tokens
    session.ask(WHAT, **SHORT)
    assert session.stats.kv_tokens == held


def test_frames_that_come_while_a_turn_is_to_be_remembered(family):
    session = fed(family, unmodified.film(4), 4)
    pieces = session.stream(WHAT, remember=True, **GREEDY)
    next(pieces)
    session.append(unmodified.film(2))
    with pytest.raises(RuntimeError, match="remember must be False"):
        list(pieces)
    assert same_past(session, fed(family, np.concatenate([unmodified.film(4), unmodified.film(2)]), 6))


def test_a_failed_answer_is_not_remembered(family, monkeypatch: pytest.MonkeyPatch):
    session, untouched = (fed(family, unmodified.film(5), 5) for _ in range(2))
    family_class = type(session._reader.adapter)
    logits = family_class.logits
    left = iter([1, 1])

    def fails(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        if next(left, 0):
            return logits(self, hidden)
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(family_class, "logits", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            session.ask(WHAT, remember=True, **GREEDY)
    assert same_past(session, untouched)
    assert counts_of(session) == counts_of(untouched)


def test_a_failed_append_after_a_turn(family, monkeypatch: pytest.MonkeyPatch):
    """The text in front of its frames has been read by then."""
    sessions = [fed(family, unmodified.film(4), 4, SOME, Memory("carriers", max_carriers=2)) for _ in range(2)]
    for session in sessions:
        session.ask(WHAT, remember=True, **SHORT)
    adapter, calls = type(sessions[0]._reader.adapter), []
    forward = adapter.forward

    def fails(self: Any, *args: Any) -> Any:
        calls.append(forward(self, *args))
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return calls[-1]

    with monkeypatch.context() as patched:
        patched.setattr(adapter, "forward", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            sessions[0].append(unmodified.film(4, seed=1))
    assert sessions[0]._past.cache.get_seq_length() == len(sessions[0]._past.rows)
    assert same_past(*sessions)
    for session in sessions:
        session.append(unmodified.film(4, seed=1))
    assert same_past(*sessions)


def test_a_template_that_rewrites_the_past_changes_no_question(family, heard: Heard, monkeypatch):
    """As those that take an earlier turn's reasoning away: what was read stays as it was read."""
    session = fed(family, unmodified.film(4), 4)
    session.ask(WHAT, remember=True, **SHORT)
    expected = answer(session, heard)
    adapter = type(session._reader.adapter)
    text = adapter.text

    def rewritten(self: Any, messages: list[dict[str, Any]], answer: bool = True) -> list[torch.Tensor]:
        return text(
            self, [m if "?" not in str(m) or m is messages[-1] else {**m, "content": ""} for m in messages], answer
        )

    monkeypatch.setattr(adapter, "text", rewritten)
    assert torch.equal(answer(session, heard), expected)


@pytest.mark.parametrize("name", STREAMED)
def test_an_answer_that_spells_the_name_of_a_video(name: str, monkeypatch: pytest.MonkeyPatch):
    """In letters, as a model may read it off a screen. The answer is told and cached; the dialogue goes on."""
    session = fed(unmodified.build(0, name), unmodified.film(4), 4, SOME)
    words = session._reader.adapter.processor.tokenizer
    spelled = words.convert_ids_to_tokens(session._reader.adapter.video_token_id)
    letters = [token for letter in spelled for token in words(letter, add_special_tokens=False)["input_ids"]]
    said = iter(letters)
    with monkeypatch.context() as patched:
        patched.setattr(Decoding, "choose", lambda self, logits, seen: next(said))
        assert session.ask(WHAT, remember=True, max_new_tokens=len(letters)) == spelled
    held = session.stats.kv_tokens
    assert session.ask("Again?", remember=True, **SHORT)
    assert session.append(unmodified.film(4, seed=1)) is not None
    assert session.ask("And now?", remember=True, **SHORT)
    assert session.stats.kv_tokens > held > len(letters)


def test_a_question_that_a_template_tells_in_front_of_its_video_is_refused(family, monkeypatch: pytest.MonkeyPatch):
    """What is there has been read."""
    session = fed(family, unmodified.film(4), 4)
    adapter, untouched = type(session._reader.adapter), session.fork()
    text = adapter.text

    def told(self: Any, messages: list[dict[str, Any]], answer: bool = True) -> list[torch.Tensor]:
        first, *others = text(self, messages, answer)
        return [torch.cat([self._ids(messages[-1]["content"][-1]["text"]), first]), *others]

    monkeypatch.setattr(adapter, "text", told)
    with pytest.raises(ValueError, match="question must not change the text before the video"):
        session.ask(WHAT, **SHORT)
    assert same_past(session, untouched, 0.0)
