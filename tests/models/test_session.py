"""A streaming session against the unmodified model on the same frames."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import unmodified
from streams import ATOL, GREEDY, NEVER, NOTHING, SOME, STREAMED, WHAT, Heard, counts_of, order, same_past

from streamprune_triton import PruneConfig
from streamprune_triton.models.base import Adapter
from streamprune_triton.streaming import reader
from streamprune_triton.streaming.answer import Answer
from streamprune_triton.streaming.memory import Memory
from streamprune_triton.streaming.session import StreamingSession


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    return unmodified.build()


def fed(tiny: tuple[Any, Any], frames: np.ndarray, chunk: int, config: PruneConfig = NOTHING, **options: Any):
    """(session, results) after the frames in chunks."""
    session = StreamingSession(*tiny, config, **options)
    results = [session.append(frames[n : n + chunk]) for n in range(0, len(frames), chunk)]
    return session, [result for result in results if result is not None]


def assert_as_unmodified(tiny, heard: Heard, session: StreamingSession, frames: np.ndarray, question: str, fps: float):
    model, processor = tiny
    ids, logits = unmodified.generate(model, unmodified.inputs(model, processor, frames, question, fps), 8)
    heard.clear()
    text = session.ask(question, **GREEDY)
    assert heard.ids == ids
    torch.testing.assert_close(torch.stack(heard.logits), logits, atol=ATOL, rtol=0)
    assert text == processor.tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("config", [NOTHING, NEVER], ids=["thresholds None", "thresholds 1.0"])
@pytest.mark.parametrize("chunk", [1, 2, 7, 12])
def test_with_nothing_dropped_it_answers_as_generate_does(tiny, heard: Heard, config: PruneConfig, chunk: int):
    frames = unmodified.film(12)
    session, results = fed(tiny, frames, chunk, config)
    assert sum(int(result.counts.sum()) for result in results) == session.stats.tokens_in == 72
    assert_as_unmodified(tiny, heard, session, frames, WHAT, 1.0)


@pytest.mark.parametrize("fps", [0.7, 3.0, 29.97])
@pytest.mark.parametrize("size", [(56, 56), (93, 131)])
def test_at_any_rate_and_size(tiny, heard: Heard, fps: float, size: tuple[int, int]):
    frames = np.random.default_rng(1).integers(0, 256, (6, *size, 3), dtype=np.uint8)
    session, _ = fed(tiny, frames, 1, fps=fps)
    assert_as_unmodified(tiny, heard, session, frames, "Where? é 東", fps)


@pytest.mark.parametrize("family", STREAMED)
def test_in_each_family(heard: Heard, family: str):
    """In chunks of 1, 2 and 7, questions in between, an odd frame waiting."""
    model = unmodified.build(0, family)
    frames = unmodified.film(11)
    session = StreamingSession(*model, NOTHING, fps=2.0)
    for begin, end in ((0, 1), (1, 3), (3, 4), (4, 11)):
        session.append(frames[begin:end])
        assert_as_unmodified(model, heard, session, frames[:end], "And now?", 2.0)


@pytest.mark.parametrize("family", STREAMED)
def test_pruned_in_each_family(heard: Heard, family: str):
    """The kept tokens' features, at the positions that the unmodified model has for them."""
    model = unmodified.build(0, family)
    frames = unmodified.film(12)
    given = unmodified.inputs(*model, frames, WHAT, 1.0)
    expected = unmodified.seen(model[0], given)
    session, results = fed(model, frames, 4, SOME)
    session.ask(WHAT, max_new_tokens=1)
    keep = torch.cat([result.keep for result in results])
    assert 0 < int(keep.sum()) < keep.numel()
    ((video,),) = session._reader.adapter.grids(given["input_ids"], given)
    stay = torch.ones(given["input_ids"].shape[1], dtype=torch.bool)
    stay[video[~keep]] = False
    positions = unmodified.rope_index(model[0], given)[:, stay]
    assert torch.equal(torch.cat(heard.positions, 1), positions)
    torch.testing.assert_close(torch.cat(heard.embeds), expected.embeds[0, stay], atol=1e-5, rtol=0)
    stacks = [stack for stack in heard.deepstack if stack is not None]
    assert len(expected.levels) == (len(stacks[0].levels) if stacks else 0)
    for n, level in enumerate(expected.levels):
        ours = torch.cat([stack.levels[n] for stack in stacks])
        torch.testing.assert_close(ours, level[stay[expected.visual[0]]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", unmodified.LINEAR)
def test_linear_attention_is_refused(family: str):
    model = unmodified.build(0, family)
    for memory in (None, Memory("carriers"), Memory("hybrid", positions="compact")):
        with pytest.raises(ValueError, match="linear attention, whose state no frame can leave, got qwen3_5"):
            StreamingSession(*model, NOTHING, memory)


def test_questions_between_appends(tiny, heard: Heard):
    frames = unmodified.film(11)
    session = StreamingSession(*tiny, NOTHING)
    for begin, end in ((0, 3), (3, 4), (4, 9), (9, 11)):
        session.append(frames[begin:end])
        for question in (WHAT, "And now?", WHAT):
            assert_as_unmodified(tiny, heard, session, frames[:end], question, 1.0)


def test_answers_leave_the_stream_as_it_was(tiny, heard: Heard):
    """An odd frame is seen, repeated, and still waits for its pair."""
    frames = unmodified.film(9)
    asked = StreamingSession(*tiny, SOME)
    for n in range(9):
        asked.append(frames[n : n + 1])
        before = asked.stats.kv_tokens, asked.stats.steps
        asked.ask(WHAT, **GREEDY)
        assert before == (asked.stats.kv_tokens, asked.stats.steps)
    quiet, _ = fed(tiny, frames, 1, SOME)
    assert same_past(asked, quiet)
    assert asked.ask(WHAT, **GREEDY) == quiet.ask(WHAT, **GREEDY)


@pytest.mark.parametrize("chunk", [1, 2, 7, 12])
@pytest.mark.parametrize("carrier", [None, "all"])
def test_pruned_it_is_the_model_given_the_kept_tokens(tiny, heard: Heard, chunk: int, carrier: str | None):
    """Embeddings of the kept tokens, positions of the whole sequence gathered at them; carriers are no part of it."""
    model, processor = tiny
    frames = unmodified.film(12)
    config = PruneConfig(temporal_threshold=0.9, spatial_threshold=0.6, carrier=carrier)
    session, results = fed(tiny, frames, chunk, config, fps=3.0)
    keep = torch.cat([result.keep.flatten() for result in results])
    assert 0 < int(keep.sum()) < len(keep)
    session.ask(WHAT, max_new_tokens=1)

    given = unmodified.inputs(model, processor, frames, WHAT, 3.0)
    visual = given["input_ids"][0] == model.config.video_token_id
    with torch.no_grad():
        tower = model.model.visual(given["pixel_values_videos"], grid_thw=given["video_grid_thw"])
        embeds = model.get_input_embeddings()(given["input_ids"])[0].clone()
        embeds[visual] = tower.pooler_output
        stay = ~visual
        stay[visual] = keep
        positions = unmodified.rope_index(model, given)[:, stay]
        assert torch.equal(torch.cat(heard.positions, 1), positions)
        torch.testing.assert_close(torch.cat(heard.embeds), embeds[stay], atol=1e-5, rtol=0)
        hidden = model.model.language_model(inputs_embeds=embeds[stay][None], position_ids=positions[:, None])
        logits = model.lm_head(hidden.last_hidden_state[0, -1])
    torch.testing.assert_close(heard.logits[0], logits, atol=ATOL, rtol=0)


def test_chunks_do_not_matter(tiny):
    frames = unmodified.film(14)
    one, _ = fed(tiny, frames, 1, SOME, memory=Memory(max_tokens=20))
    for chunk in (2, 3, 7, 14):
        assert same_past(one, fed(tiny, frames, chunk, SOME, memory=Memory(max_tokens=20))[0])


def test_the_oldest_frames_leave_first(tiny):
    """What stays are the newest steps that fit, at their own positions: in the first layer the very same keys."""
    frames = unmodified.film(16)
    whole, results = fed(tiny, frames, 1, SOME)
    counts = [int(result.counts.sum()) for result in results]
    bounded = StreamingSession(*tiny, SOME, Memory(max_tokens=14))
    text = bounded.stats.kv_tokens
    for n, frame in enumerate(frames):
        bounded.append(frame[None])
        steps = counts[: (n + 1) // 2]
        left = newest(steps, 14)
        assert bounded.stats.kv_tokens == text + left <= text + 14
        ours, theirs = keys(bounded), keys(whole)[:, :, : text + sum(steps)]
        assert len(bounded._past.rows) == ours.shape[2]
        expected = torch.cat([theirs[:, :, :text], theirs[:, :, theirs.shape[2] - left :]], 2)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    assert bounded.stats.tokens_kept == sum(counts) > 14
    assert bounded.ask(WHAT, **GREEDY)


def test_a_bound_below_one_step_is_refused(tiny):
    session = StreamingSession(*tiny, SOME, Memory(max_tokens=5))
    with pytest.raises(ValueError, match=r"memory\.max_tokens must be at least 12"):
        session.append(unmodified.film(2))
    assert session.stats.frames_in == session.stats.steps == 0
    StreamingSession(*tiny, PruneConfig(keep_tokens=5), Memory(max_tokens=5)).append(unmodified.film(2))
    StreamingSession(*tiny, SOME, Memory("carriers", max_tokens=5)).append(unmodified.film(2))


def test_a_steps_own_text_counts_in_the_bound():
    model, frames = unmodified.build(0, "qwen3_vl"), unmodified.film(24)
    session = StreamingSession(*model, NOTHING, Memory(max_tokens=12))
    with pytest.raises(ValueError, match=r"memory\.max_tokens must be at least 27, the tokens of one step, got 12"):
        session.append(frames[:2])
    bounded = StreamingSession(*model, NOTHING, Memory(max_tokens=28))
    text = bounded.stats.kv_tokens
    for n in range(0, 24, 2):
        bounded.append(frames[n : n + 2])
        assert bounded.stats.kv_tokens - text <= 28
    StreamingSession(*model, NOTHING, Memory("hybrid", max_tokens=12)).append(frames)
    until_ten = StreamingSession(*model, NOTHING, Memory(max_tokens=27))  # the sixth step's text has a digit more
    with pytest.raises(ValueError, match=r"memory\.max_tokens must be at least 28"):
        until_ten.append(frames[:12])
    until_ten.append(frames[:10])
    with pytest.raises(ValueError, match=r"memory\.max_tokens must be at least 28"):
        until_ten.append(frames[10:12])


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize(
    ("stage", "seen"),
    [
        ("pixels", 0),
        ("many_features", 0),
        ("layout", 0),
        ("forward", 0),
        ("pixels", 3),
        ("many_features", 3),
        ("forward", 3),
    ],
)
def test_a_failed_append_leaves_the_session_as_it_was(tiny, monkeypatch, stage: str, seen: int, rounds: int):
    monkeypatch.setattr(reader, "ROWS", 4096 if rounds == 1 else 5)  # else the last of several forwards fails
    frames = unmodified.film(10)
    session, untouched = (StreamingSession(*tiny, SOME, Memory(max_tokens=14)) for _ in range(2))
    if seen:
        session.append(frames[:seen])
        untouched.append(frames[:seen])
    good = iter([1] * (rounds - 1) if stage == "forward" else [])
    family = type(session._reader.adapter)
    method = getattr(family, stage)

    def fails(self: Adapter, *args: Any) -> Any:
        result = method(self, *args)
        if next(good, 0):
            return result
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(family, stage, fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            session.append(frames[seen:])
    assert same_past(session, untouched)
    assert counts_of(session) == counts_of(untouched)
    session.append(frames[seen:])
    untouched.append(frames[seen:])
    assert same_past(session, untouched)
    assert session.ask(WHAT, **GREEDY) == untouched.ask(WHAT, **GREEDY)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (np.zeros((1, 84, 112, 3), np.float32), TypeError, "frames must be uint8, got float32"),
        (torch.zeros(1, 84, 112, 3), TypeError, "frames must be uint8"),
        (np.zeros((84, 112, 3), np.uint8), ValueError, r"frames\[None\]"),
        (np.zeros((1, 3, 84, 112), np.uint8), ValueError, "frames must have shape"),
        (np.zeros((1, 0, 112, 3), np.uint8), ValueError, "frames must have shape"),
        (np.zeros((1, 84, 84, 3), np.uint8), ValueError, "frames must keep the stream's size: 84 x 112"),
        ([np.zeros((84, 112, 3), np.uint8), np.zeros((84, 84, 3), np.uint8)], ValueError, r"frames\[1\]"),
        ([np.zeros((84, 112), np.uint8)], ValueError, r"frames\[0\] must have shape"),
        ("frames", TypeError, "frames must be an array"),
        (None, TypeError, "frames must be an array"),
    ],
)
def test_bad_frames(tiny, bad: Any, error: type[Exception], message: str):
    session, untouched = (fed(tiny, unmodified.film(3), 3)[0] for _ in range(2))
    with pytest.raises(error, match=message):
        session.append(bad)
    assert same_past(session, untouched)
    assert counts_of(session) == counts_of(untouched)


def test_bad_arguments(tiny):
    model, processor = tiny
    for options, error, message in (
        ({"fps": 0}, ValueError, "fps"),
        ({"fps": float("nan")}, ValueError, "fps"),
        ({"fps": "1"}, TypeError, "fps"),
        ({"memory": "tokens"}, TypeError, "memory"),
        ({"system": 3}, TypeError, "system"),
        ({"config": 0.2}, TypeError, "config"),
    ):
        with pytest.raises(error, match=message):
            StreamingSession(model, processor, **options)
    with pytest.raises(ValueError, match="model must be of a supported family"):
        StreamingSession(torch.nn.Linear(1, 1), processor)
    with pytest.raises(ValueError, match="mode must be one of tokens, carriers, hybrid"):
        Memory(mode="all")
    with pytest.raises(ValueError, match="max_tokens"):
        Memory(max_tokens=0)
    with pytest.raises(TypeError, match="max_tokens"):
        Memory(max_tokens=True)


def test_bad_questions(tiny):
    session = StreamingSession(*tiny)
    with pytest.raises(ValueError, match="append frames first"):
        session.ask(WHAT)
    session.append(unmodified.film(2))
    for arguments, error, message in (
        ({"num_beams": 2}, TypeError, "num_beams"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens"),
        ({"max_new_tokens": 2.0}, TypeError, "max_new_tokens"),
        ({"eos_token_id": "</s>"}, TypeError, "eos_token_id"),
        ({"eos_token_id": [4, "</s>"]}, TypeError, "eos_token_id"),
        ({"eos_token_id": torch.tensor([4.0])}, TypeError, "eos_token_id"),
        ({"do_sample": "no"}, TypeError, "do_sample"),
        ({"remember": "no"}, TypeError, "remember"),
        ({"do_sample": True, "temperature": -1.0}, ValueError, "temperature"),
        ({"temperature": "1"}, TypeError, "^temperature must be a number, got str$"),
        ({"do_sample": True, "top_k": 2.0}, TypeError, "^top_k must be an integer, got float$"),
        ({"do_sample": True, "top_k": -1}, ValueError, "^top_k must be at least 0, got -1$"),
        ({"do_sample": True, "top_p": True}, TypeError, "^top_p must be a number, got bool$"),
        ({"repetition_penalty": 0}, ValueError, r"^repetition_penalty must be above 0, got 0\.0$"),
        ({"repetition_penalty": float("nan")}, ValueError, "^repetition_penalty must be above 0, got nan$"),
    ):
        with pytest.raises(error, match=message):
            session.ask(WHAT, **arguments)
        with pytest.raises(error, match=message):  # on the call, not with the first piece
            session.stream(WHAT, **arguments)
    with pytest.raises(TypeError, match="question"):
        session.ask(3)
    named = r"^question and system must not name a video themselves, got 1 <\|video_pad\|>$"
    with pytest.raises(ValueError, match=named):
        session.ask("<|video_pad|>")
    with pytest.raises(
        ValueError, match=r"^question must be of whole characters, got '\\ud83c', half of a pair, at 3$"
    ):
        session.ask("hm \ud83c?")
    with pytest.raises(ValueError, match=r"^system must be of whole characters, got '\\ud83c', half of a pair, at 0$"):
        StreamingSession(*tiny, system="\ud83c")
    with pytest.raises(TypeError, match=r"^cuda_graphs must be a bool, got str$"):
        StreamingSession(*tiny, cuda_graphs="no")  # type: ignore[arg-type]


def test_numbers_of_any_kind_choose_the_same_tokens(tiny):
    session, _ = fed(tiny, unmodified.film(4), 4)
    answers = []
    for temperature, top_k, top_p, penalty in (
        (0.7, 5, 0.9, 2.0),
        (np.float64(0.7), np.int64(5), Fraction(9, 10), 2),
    ):
        torch.manual_seed(0)
        given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "repetition_penalty": penalty}
        answers.append(session.ask(WHAT, max_new_tokens=12, do_sample=True, **given))
    assert answers[0] == answers[1]
    assert session.ask(WHAT, max_new_tokens=2, do_sample=True, temperature=np.float32(0.7))


def test_frames_in_any_form(tiny):
    frames = unmodified.film(5)
    session, _ = fed(tiny, frames, 5)
    views = [torch.from_numpy(frame) for frame in frames]
    for form in (torch.from_numpy(frames), list(frames), views, frames[:, ::-1].copy()[:, ::-1]):
        other = StreamingSession(*tiny, NOTHING)
        other.append(form)
        assert same_past(session, other)


def test_no_frames_is_no_error(tiny):
    session = StreamingSession(*tiny)
    assert session.append([]) is None
    assert session.append(np.empty((0, 84, 112, 3), np.uint8)) is None
    assert session.append(unmodified.film(1)) is None
    assert session.append([]) is None
    assert session.stats.frames_in == 1


def test_a_buffer_that_is_written_again_does_no_harm(tiny):
    frames = unmodified.film(4)
    buffer = np.empty_like(frames[:1])
    session = StreamingSession(*tiny, NOTHING)
    for frame in frames:
        buffer[0] = frame
        session.append(buffer)
    assert same_past(session, fed(tiny, frames, 4)[0])


def test_stream_gives_the_answer_in_pieces(tiny):
    session, _ = fed(tiny, unmodified.film(4), 4)
    pieces = list(session.stream(WHAT, **GREEDY))
    assert len(pieces) > 1
    assert "".join(pieces) == session.ask(WHAT, **GREEDY)


def test_frames_may_come_while_an_answer_is_read(tiny):
    frames = unmodified.film(8)
    session, _ = fed(tiny, frames[:5], 5)
    answer = session.ask(WHAT, **GREEDY)
    pieces = session.stream(WHAT, **GREEDY)
    late = session.stream(WHAT, **GREEDY)
    text = next(pieces)
    session.append(frames[5:])
    assert text + "".join(pieces) == answer
    assert "".join(late) == answer
    assert same_past(session, fed(tiny, frames, 8)[0])


def test_text_that_ends_inside_of_a_character(tiny, monkeypatch):
    """Pieces hold back the bytes of a character until it is whole."""
    session, _ = fed(tiny, unmodified.film(2), 2)
    ids = tiny[1].tokenizer("é東!é")["input_ids"]

    def said(self: Answer) -> Iterator[int]:
        for token in ids[:-1]:
            self._ids.append(token)
            yield token

    monkeypatch.setattr(Answer, "_tokens", said)
    assert list(session.stream(WHAT)) == ["é", "東", "!", "\ufffd"]


def test_sampling_and_penalty_mean_what_they_mean_to_generate(tiny):
    """By the model's own generation_config where the caller says nothing."""
    model, processor = tiny
    frames = unmodified.film(4)
    session, _ = fed(tiny, frames, 4)
    given = unmodified.inputs(model, processor, frames, WHAT, 1.0)
    for options in (
        {"do_sample": True, "temperature": 0.7, "top_k": 5},
        {"do_sample": True, "top_p": 0.6, "repetition_penalty": 1.3},
        {"do_sample": True, "top_k": None, "temperature": 2.0},
        {"do_sample": False, "repetition_penalty": 1.5},
    ):
        torch.manual_seed(5)
        out = model.generate(**given, max_new_tokens=12, **options)
        expected = processor.tokenizer.decode(out[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
        torch.manual_seed(5)
        assert session.ask(WHAT, max_new_tokens=12, **options) == expected


def test_an_end_token_ends_the_answer(tiny, heard: Heard):
    session, _ = fed(tiny, unmodified.film(4), 4)
    session.ask(WHAT, **GREEDY)
    ids = list(heard.ids)
    stop = next(n for n in range(1, len(ids)) if ids[n] not in ids[:n])
    end = ids[stop]
    for given in (end, np.int64(end), [end], torch.tensor(end), torch.tensor([end]), np.array([end])):
        heard.clear()
        session.ask(WHAT, **GREEDY, eos_token_id=given)
        assert heard.ids == ids[: stop + 1]
    heard.clear()
    session.ask(WHAT, max_new_tokens=np.int64(stop))
    assert heard.ids == ids[:stop]


def test_stats(tiny):
    frames = unmodified.film(9)
    session, results = fed(tiny, frames, 2, SOME)
    stats = session.stats
    assert (stats.frames_in, stats.steps, stats.tokens_in) == (9, 4, 48)
    assert stats.tokens_kept == sum(len(result.tokens) for result in results)
    assert stats.tokens_in == stats.tokens_kept + stats.dropped_temporal + stats.dropped_spatial + stats.nonfinite
    assert stats.kv_tokens == len(session._reader.talk.opening) + stats.tokens_kept
    assert stats.kv_bytes == stats.kv_tokens * 2 * 2 * 2 * 16 * 4  # keys and values, layers, heads, head size, fp32
    assert all(stats.seconds[stage] > 0 for stage in ("preprocess", "vision", "prune", "prefill"))
    assert stats.seconds["answer"] == 0
    session.ask(WHAT, **GREEDY)
    assert stats.seconds["answer"] > 0


def test_stats_count_a_frame_once(tiny):
    """Also one that waits, and a remembered turn or a gap comes instead of its pair."""
    frames = unmodified.film(6)
    session, results = fed(tiny, frames[:3], 3, SOME)
    session.ask(WHAT, **GREEDY)
    assert (session.stats.steps, session.stats.tokens_in) == (1, 12)
    session.ask(WHAT, remember=True, **GREEDY)
    whole, more = fed(tiny, np.concatenate([frames[:3], frames[2:3]]), 4, SOME)
    assert session.stats.frames_in == 3
    assert session.stats.steps == session._past.steps == 2
    for name in ("tokens_in", "tokens_kept", "dropped_temporal", "dropped_spatial", "nonfinite"):
        assert getattr(session.stats, name) == getattr(whole.stats, name)
    assert session.stats.tokens_kept == sum(len(each.tokens) for each in more) > len(results[0].tokens)
    session.append(frames[3:4])
    session.skip(3)
    assert (session.stats.frames_in, session.stats.frames_skipped) == (4, 3)
    assert session._past.steps == 2 + 2


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
def test_autocast_changes_no_bit(family: str, heard: Heard):
    model, frames = unmodified.build(0, family), unmodified.film(6)
    plain, _ = fed(model, frames, 2, SOME)
    plain.ask(WHAT, **GREEDY)
    logits = torch.stack(heard.logits)
    heard.clear()
    with torch.autocast("cpu", torch.bfloat16):
        surrounded, _ = fed(model, frames, 2, SOME)
        surrounded.ask(WHAT, **GREEDY)
    assert torch.equal(torch.stack(heard.logits), logits)
    assert same_past(plain, surrounded, 0.0)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_a_model_that_forgets_what_it_reads_is_refused():
    """transformers leaves the cache out where it is to recompute activations."""
    model, processor = unmodified.build()
    frames, untouched = unmodified.film(4), unmodified.build()
    session, _ = fed((model, processor), frames[:2], 2, SOME)
    model.gradient_checkpointing_enable()
    model.train()
    for cuda_graphs in (False, True):
        with pytest.raises(ValueError, match=r"model must be in eval mode.* wrote 0 of \d+ rows"):
            StreamingSession(model, processor, cuda_graphs=cuda_graphs)
    with pytest.raises(RuntimeError, match="size of tensor"):  # the mask counts the rows that are left out
        session.append(frames[2:])
    model.eval()
    session.append(frames[2:])
    assert same_past(session, fed(untouched, frames, 2, SOME)[0])


def test_a_model_on_several_devices_is_refused():
    model, processor = unmodified.build()
    model.lm_head.to("meta")
    with pytest.raises(
        ValueError, match="model must be on one device, not sharded or offloaded, got weights on cpu, m"
    ):
        StreamingSession(model, processor)


def test_the_model_is_left_as_it_was():
    model, processor = unmodified.build()
    names, state = set(vars(model)) | set(vars(model.model)), {n: v.clone() for n, v in model.state_dict().items()}
    session, _ = fed((model, processor), unmodified.film(4), 2)
    session.ask(WHAT, **GREEDY)
    assert model.model.rope_deltas is None
    assert set(vars(model)) | set(vars(model.model)) == names
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_sessions_share_a_model_and_nothing_else(tiny):
    model, processor = tiny
    a, b = unmodified.film(8, seed=1), unmodified.film(8, (56, 84), seed=2)
    alone = [fed(tiny, frames, 1, SOME)[0] for frames in (a, b)]
    first, second = (StreamingSession(model, processor, SOME) for _ in range(2))
    for n in range(8):
        first.append(a[n : n + 1])
        second.append(b[n : n + 1])
        second.ask(WHAT, **GREEDY)
    assert same_past(alone[0], first)
    assert same_past(alone[1], second)


def test_the_system_text(tiny, heard: Heard):
    given, plain = (StreamingSession(*tiny, system=system) for system in ("You see.", None))
    assert given.stats.kv_tokens != plain.stats.kv_tokens
    given.append(unmodified.film(2))
    assert given.ask(WHAT, **GREEDY)


def newest(counts: list[int], most: int) -> int:
    """How many tokens of the newest whole steps fit."""
    total = 0
    for count in reversed(counts):
        if total + count > most:
            break
        total += count
    return total


def keys(session: StreamingSession) -> torch.Tensor:
    """(1, heads, L, d) of the first layer, in the order of reading."""
    return session._past.cache.layers[0].keys[:, :, order(session)]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_a_fork(tiny, copied):
    """Of the same model: what one of the two reads and evicts is nothing to the other."""
    memory = Memory("hybrid", max_carriers=2, recent_frames=1)
    session, _ = fed(tiny, unmodified.film(6), 6, SOME, memory=memory)
    other, expected = copied(session), session.fork()
    assert other._model is session._model
    other.append(unmodified.film(6, seed=1))
    assert same_past(session, expected, 0.0)
    assert (session.stats.steps, other.stats.steps) == (3, 6)


def test_one_session_is_no_list_of_sessions(tiny):
    session = StreamingSession(*tiny)
    with pytest.raises(TypeError, match=r"^sessions must be a list of sessions, got one: use append$"):
        StreamingSession.append_many(session, unmodified.film(2))  # type: ignore[arg-type]


def test_a_session_is_saved_not_pickled(tiny):
    with pytest.raises(TypeError, match=r"^a StreamingSession cannot be pickled: use save, and load in"):
        pickle.dumps(StreamingSession(*tiny))


def test_a_session_prints_in_a_line(tiny):
    session, _ = fed(tiny, unmodified.film(4), 4, fps=2.0)
    told = f"StreamingSession(qwen2_5_vl, {session.memory}, fps=2, steps=2, kv_tokens={session.stats.kv_tokens})"
    assert repr(session) == told


def test_statistics_without_a_stage_go_on(tiny):
    """As those of a file whose stages had other names."""
    session = StreamingSession(*tiny, NOTHING)
    session.stats.seconds.clear()
    session.append(unmodified.film(2))
    session.ask(WHAT, **GREEDY)
    assert set(session.stats.seconds) == {"preprocess", "vision", "prune", "prefill", "answer"}
