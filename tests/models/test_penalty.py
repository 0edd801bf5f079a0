"""The penalty on repetitions looks at all text that a session has read, as `generate`'s does at its prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import unmodified
from streams import NOTHING, WHAT, fed

from streamprune_triton import StreamingSession

OPTIONS: dict[str, Any] = {"max_new_tokens": 10, "do_sample": False}
TOKENS = {"qwen2_5_vl": "<|video_pad|>", "llava_onevision": "<video>"}  # that stands for a video in a text
PENALTIES = [1.2, 1.5]


def generated(model: Any, processor: Any, given: dict[str, Any], penalty: float) -> str:
    out = model.generate(**given, **OPTIONS, repetition_penalty=penalty)[0, given["input_ids"].shape[1] :]
    return processor.tokenizer.decode(out, skip_special_tokens=True)


def prompt(model: Any, processor: Any, films: list[Any], turns: list[dict[str, Any]]) -> dict[str, Any]:
    """What `generate` takes for a dialogue about films of one size."""
    kind, every = model.config.model_type, [unmodified.inputs(model, processor, film, "", 1.0) for film in films]
    text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    first, *others = text.split(TOKENS[kind])
    area = 16 if kind == "llava_onevision" else 12
    spelled = [unmodified.spelled(kind, TOKENS[kind], len(film), area, 1.0) for film in films]
    text = first + "".join(video + piece for video, piece in zip(spelled, others, strict=True))
    read = unmodified.read(model, processor, [text])
    pixels = {
        name: torch.cat([torch.as_tensor(each[name]) for each in every]) for name in every[0] if "_ids" not in name
    }
    return {**pixels, **read}


def asked(question: str, *video: dict[str, str]) -> dict[str, Any]:
    return {"role": "user", "content": [*video, {"type": "text", "text": question}]}


@pytest.mark.parametrize("kind", ["qwen3_vl", "internvl", "video_llama_3"])
def test_what_stands_around_frames_counts(kind: str):
    model, processor = family = unmodified.build(0, kind)
    film = unmodified.film(8)
    session, given = fed(family, film[:7], 3), unmodified.inputs(model, processor, film, WHAT, 1.0)
    session.append(film[7:])
    for penalty in (*PENALTIES, 2.0):
        expected = generated(model, processor, given, penalty)
        assert session.ask(WHAT, **OPTIONS, repetition_penalty=penalty) == expected


@pytest.mark.parametrize("kind", list(TOKENS))
def test_turns_count_behind_later_frames(kind: str):
    model, processor = family = unmodified.build(0, kind)
    films, video = [unmodified.film(8), unmodified.film(8, seed=4)], {"type": "video"}
    for penalty in PENALTIES:
        options = {**OPTIONS, "repetition_penalty": penalty}
        session = StreamingSession(*family, NOTHING)
        session.append(films[0])
        turns = [asked(WHAT, video)]
        for question in ("And why?", "Now?"):
            said = session.ask(turns[-1]["content"][-1]["text"], remember=True, **options)
            turns += [{"role": "assistant", "content": [{"type": "text", "text": said}]}, asked(question)]
        session.append(films[1])
        turns[-1] = asked("Now?", video)
        assert session.ask("Now?", **options) == generated(
            model, processor, prompt(model, processor, films, turns), penalty
        )


def test_what_was_read_is_known_to_forks_and_files(tmp_path):
    """And what a fork reads, to itself alone."""
    family = unmodified.build(0, "qwen3_vl")
    session = fed(family, unmodified.film(4), 2)
    session.ask(WHAT, remember=True, **OPTIONS)
    said = session._past.said
    assert said > set(session._reader.talk.opening.tolist())
    fork, loaded = session.fork(), StreamingSession(*family, NOTHING)
    fork.ask("Quickly, the jovial zebra?", remember=True, **OPTIONS)
    session.save(tmp_path / "stream.safetensors")
    loaded.load(tmp_path / "stream.safetensors")
    assert session._past.said == loaded._past.said == said < fork._past.said
