"""Every family's adapter against its model's and its processor's own answers, on a tiny model."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import unmodified
from streams import STREAMED

from streamprune_triton import models
from streamprune_triton.models import tiny
from streamprune_triton.models.base import Adapter, DeepStack, attention_mask
from streamprune_triton.models.positions import Cursor, Layout
from streamprune_triton.models.processor import FrameProcessor

WHO = "Who is <|nobody|> é 東?"
torchvision = pytest.mark.skipif(not unmodified.HAVE_TORCHVISION, reason="torchvision is not installed")
_built: dict[str, tuple[Any, Any]] = {}


@pytest.fixture(params=[name for name in tiny.NAMES if name != "smolvlm"])
def adapter(request: pytest.FixtureRequest) -> Adapter:
    if request.param not in _built:
        _built[request.param] = unmodified.build(family=request.param)
    return adapter_of(*_built[request.param])


@pytest.fixture
def streamed(adapter: Adapter) -> Adapter:
    """Of a family that sessions run on."""
    if family(adapter) not in STREAMED:
        pytest.skip(f"no session runs on {family(adapter)}")
    return adapter


def adapter_of(model: Any, processor: Any) -> Adapter:
    return models.adapter(model)(model, processor)


def family(adapter: Adapter) -> str:
    return adapter.model.config.model_type


def messages(*content: str, system: str | None = None) -> list[dict[str, Any]]:
    """One user's message; "video" and "image" are none of its words."""
    parts = [{"type": part} if part in ("video", "image") else {"type": "text", "text": part} for part in content]
    return [{"role": "user", "content": parts}]


def written(adapter: Adapter, frames: int, area: int, fps: float, question: str = WHO) -> list[torch.Tensor]:
    """A prompt's ids as a session reads them: text, then for each step text, tokens, text, and the rest of the text."""
    first, last = adapter.text(messages("video", question))
    parts, size = [first], adapter.frames_per_step
    for step in range(-(-frames // size)):
        before, behind = adapter.around(step, fps, max(0, (step + 1) * size - frames))
        parts += [before, torch.full((area,), adapter.visual_token_id), behind]
    return [*parts, last]


# Text


@pytest.mark.parametrize("fps", [0.3, 1.0, 2.0, 29.97])
@pytest.mark.parametrize("frames", [2, 3, 24])
def test_the_text_is_the_unmodified_one(adapter: Adapter, frames: int, fps: float):
    given = unmodified.inputs(adapter.model, adapter.processor, unmodified.film(frames), WHO, fps)
    area = 12 if family(adapter) in unmodified.PATCHED else 16
    assert torch.equal(torch.cat(written(adapter, frames, area, fps)), given["input_ids"][0])


@pytest.mark.parametrize("frames", [1, 24])
def test_the_text_is_the_unmodified_one_with_long_words(adapter: Adapter, frames: int):
    """Where a tokenizer joins letters, no piece may be cut where it would join them."""
    words = joined(adapter.processor.tokenizer, "Frame1234567890: seconds user assistant 0.5 \n\n Who USER ASSISTANT")
    longer = SimpleNamespace(**{name: getattr(adapter.processor, name) for name in type(adapter).needs})
    longer.tokenizer, longer.apply_chat_template = words, adapter.processor.apply_chat_template
    text = unmodified.spelled(family(adapter), unmodified.chat(adapter.processor, WHO), frames, 16, 2.0)
    ids = torch.tensor(words(text)["input_ids"])
    assert len(ids) < len(adapter.processor.tokenizer(text)["input_ids"])
    assert torch.equal(torch.cat(written(adapter_of(adapter.model, longer), frames, 16, 2.0)), ids)


def joined(words: Any, text: str) -> Any:
    """A tokenizer with all beginnings of the text's words as tokens of their own."""
    from tokenizers import Tokenizer

    inside = json.loads(words.backend_tokenizer.to_str())
    vocabulary, merges = inside["model"]["vocab"], inside["model"]["merges"]
    vocabulary.update({token["content"]: token["id"] for token in inside["added_tokens"]})  # so that ids stay
    for word, _ in words.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text):
        for n in range(1, len(word)):
            if word[: n + 1] not in vocabulary:
                vocabulary[word[: n + 1]] = len(vocabulary)
                merges.append([word[:n], word[n]])
    longer = copy.deepcopy(words)
    longer._tokenizer = Tokenizer.from_str(json.dumps(inside))
    return longer


@torchvision
@pytest.mark.parametrize("frames", [2, 3, 24])
def test_the_processor_spells_videos_as_these_tests_do(adapter: Adapter, frames: int):
    text = unmodified.chat(adapter.processor, WHO)
    given = unmodified.inputs(adapter.model, adapter.processor, unmodified.film(frames), WHO, 3.0)
    area = 12 if family(adapter) in unmodified.PATCHED else 16
    spelled = unmodified.spelled(family(adapter), text, frames, area, 3.0)
    assert given["input_ids"][0].tolist() == adapter.processor.tokenizer(spelled)["input_ids"]


def test_a_text_is_cut_at_each_video(adapter: Adapter):
    one = adapter.text(messages("video", "What?"))
    two = adapter.text(messages("video", "What?", "video", WHO), answer=False)
    assert len(one) == 2
    assert len(two) == 3
    assert torch.equal(two[0], one[0])
    assert len(adapter.text(messages("What?"))) == 1
    assert "assistant" not in adapter.processor.tokenizer.decode(two[-1]).lower()


def test_a_question_with_a_video_in_it_is_refused(adapter: Adapter):
    token = adapter.processor.tokenizer.convert_ids_to_tokens(adapter.video_token_id)
    with pytest.raises(ValueError, match="question"):
        adapter.text(messages("video", f"What is {token}?"))


# Features and positions


def test_features_and_positions_are_those_the_decoder_gets(adapter: Adapter):
    frames = unmodified.film(6)
    given = unmodified.inputs(adapter.model, adapter.processor, frames, WHO, 2.0)
    seen = unmodified.seen(adapter.model, given)
    ((grid,),) = adapter.grids(given["input_ids"], given)
    features = adapter.features(adapter.pixels(frames))
    assert features.x.shape == (*grid.shape, 64)
    torch.testing.assert_close(features.x, seen.embeds[0, grid], atol=1e-5, rtol=0)
    assert len(features.levels) == len(seen.levels) == (2 if family(adapter).startswith("qwen3_vl") else 0)
    for ours, theirs in zip(features.levels, seen.levels, strict=True):
        torch.testing.assert_close(ours.flatten(0, 2), theirs, atol=1e-5, rtol=0)
    text = torch.ones(seen.embeds.shape[1], dtype=torch.bool)
    text[grid.flatten()] = False
    assert torch.equal(adapter.embed(given["input_ids"][0])[text], seen.embeds[0, text])
    assert torch.equal(unmodified.rope_index(adapter.model, given), told(seen))


def told(seen: unmodified.Seen) -> torch.Tensor:
    """(A, L)"""
    return torch.arange(seen.embeds.shape[1])[None] if seen.positions is None else seen.positions[:, 0]


def test_streams_at_once_have_the_features_they_have_alone(adapter: Adapter):
    clips = [unmodified.film(count, seed=count) for count in (2, 6, 4)]
    many = adapter.many_features([adapter.pixels(clip) for clip in clips])
    for features, clip in zip(many, clips, strict=True):
        alone = adapter.features(adapter.pixels(clip))
        assert features.x.shape == alone.x.shape
        for ours, theirs in zip((features.x, *features.levels), (alone.x, *alone.levels), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_pixels_do_not_depend_on_the_chunk(adapter: Adapter):
    frames = unmodified.film(8, (70, 91))
    whole = adapter.pixels(frames)
    parts = [adapter.pixels(frames[n : n + 2]) for n in range(0, 8, 2)]
    if isinstance(whole, tuple):
        whole, parts = whole[0], [part[0] for part in parts]
    assert torch.equal(torch.cat(parts), whole)


def walked(layout: Layout, adapter: Adapter, first: int, steps: int, fps: float, carrier: bool) -> torch.Tensor:
    """(A, n) positions of a video's steps that begin at `first`, and of the text behind them."""
    cursor, parts = Cursor(first), []
    for step in range(steps):
        before, behind = (len(ids) for ids in adapter.around(step, fps))
        place = layout.place(cursor, before, behind)
        at = place.positions.shape[1] - behind - 1
        parts.append(
            place.positions if carrier else torch.cat([place.positions[:, :at], place.positions[:, at + 1 :]], 1)
        )
        cursor = place.next
    return torch.cat([*parts, torch.full((layout.axes, 1), layout.end(cursor))], 1)


@pytest.mark.parametrize("fps", [0.3, 2.0, 29.97])
@pytest.mark.parametrize(("frames", "size"), [(2, (56, 84)), (14, (112, 56)), (70, (56, 84))])
def test_positions_are_the_models_own(streamed: Adapter, frames: int, size: tuple[int, int], fps: float):
    given = unmodified.inputs(streamed.model, streamed.processor, unmodified.film(frames, size), WHO, fps)
    ((grid,),) = streamed.grids(given["input_ids"], given)
    first = streamed.text(messages("video", WHO))[0]
    layout = streamed.layout(first, tuple(grid.shape[1:]), fps, False)
    ours = walked(layout, streamed, len(first), len(grid), fps, False)
    expected = unmodified.rope_index(streamed.model, given)[:, len(first) :]
    assert torch.equal(ours, expected[:, : ours.shape[1]])


def test_carriers_stand_behind_their_tokens_or_in_the_middle_of_them(streamed: Adapter):
    first = streamed.text(messages("video", WHO))[0]
    layout = streamed.layout(first, (4, 4), 2.0, True)
    place = layout.place(Cursor(7), *(len(ids) for ids in streamed.around(0, 2.0)))
    at = len(streamed.around(0, 2.0)[0]) + 16
    carrier, tokens = place.positions[:, at], place.positions[:, at - 16 : at]
    expected = tokens[:, -1] + 1 if layout.axes == 1 else tokens[:, 2 * 4 + 2]
    assert torch.equal(carrier, expected)
    assert layout.end(Cursor(7)) == 7  # of a video that has not begun


# Where the tokens are


@pytest.mark.parametrize("side", ["left", "right"])
def test_grids_in_a_padded_batch_with_several_videos_and_images(adapter: Adapter, side: str):
    name, frames = family(adapter), 4
    one = unmodified.chat(adapter.processor, "What?")
    three = adapter.processor.apply_chat_template(
        messages("image", "video", "How", "image", "video", "image", "video", WHO), tokenize=False
    )
    for _ in range(3):
        three = unmodified.spelled(name, three, frames, 16, 1.0)
    one = unmodified.spelled(name, one, frames, 16, 1.0)
    given = unmodified.read(adapter.model, adapter.processor, [one, with_images(name, three)], side)
    others = unmodified.read(adapter.model, adapter.processor, [one, with_images(name, three, "?")], side)["input_ids"]
    steps = frames // adapter.frames_per_step
    inputs = {"video_grid_thw": torch.tensor([[steps, 8, 8]] * 4), "pixel_values_videos": torch.empty(4, frames, 0)}
    found = adapter.grids(given["input_ids"], {**given, **inputs})
    assert [len(row) for row in found] == [1, 3]
    for ids, grids in zip(others, found, strict=True):
        expected = (ids == adapter.visual_token_id).nonzero().flatten()
        if name == "llava_onevision":
            expected = expected[torch.arange(len(expected)) % (steps * 16 + 1) < steps * 16]
        assert all(grid.shape == (steps, 4, 4) for grid in grids)
        assert torch.equal(torch.cat([grid.flatten() for grid in grids]), expected)


def with_images(name: str, text: str, token: str | None = None) -> str:
    """With images spelled out, of tokens that may be others than theirs; with InternVL under texts like a frame's."""
    if name in unmodified.GLM:  # a picture of a video has its time behind it
        begin, own, end = "<|begin_of_image|>", "<|image|>", "<|end_of_image|>"
        return text.replace(begin + own + end, begin + (token or own) * 16 + end)
    if name != "internvl":
        own = "<image>" if name.startswith("llava") else "<|image_pad|>"
        return text.replace(own, (token or own) * 16)
    first, second, third, rest = text.split("<IMG_CONTEXT>\n")  # no frame has a newline behind its tokens
    one, three = (f"<img>{(token or '<IMG_CONTEXT>') * 16 * n}</img>" for n in (1, 3))
    return f"{first}Frame2: {one}{second}Frame1: {three}{third}Image3: {one}\n{rest}"


def test_grids_of_prompts_without_videos(adapter: Adapter):
    ids = torch.stack([adapter.text(messages("What?"))[0]] * 2)
    inputs = {"video_grid_thw": torch.empty(0, 3), "pixel_values_videos": torch.empty(0, 4, 0)}
    assert adapter.grids(ids, inputs) == [[], []]


# The language model


@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_in_pieces_the_decoder_answers_as_in_one(streamed: Adapter, chunk: int):
    from transformers import DynamicCache

    frames, fps = unmodified.film(14), 2.0
    given = unmodified.inputs(streamed.model, streamed.processor, frames, WHO, fps)
    seen, cache = unmodified.seen(streamed.model, given), DynamicCache(config=streamed.model.config.get_text_config())
    features = streamed.features(streamed.pixels(frames))
    first, last = streamed.text(messages("video", WHO))
    layout = streamed.layout(first, tuple(features.x.shape[1:3]), fps, False)
    read = [streamed.forward(streamed.embed(first), plain(layout, 0, len(first)), cache)]
    cursor = Cursor(len(first))
    for begin in range(0, len(features.x), chunk):
        embeds, positions, at, cursor = steps(streamed, layout, features.x, begin, chunk, cursor, fps)
        levels = tuple(level[begin : begin + chunk].flatten(0, 2) for level in features.levels)
        read.append(streamed.forward(embeds, positions, cache, None, DeepStack(at, levels) if levels else None))
    read.append(streamed.forward(streamed.embed(last), plain(layout, layout.end(cursor), len(last)), cache))
    torch.testing.assert_close(torch.cat(read), seen.hidden[0], atol=1e-4, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(
            streamed.logits(read[-1][-1:]), streamed.model(**given).logits[0, -1:], atol=1e-3, rtol=0
        )


def plain(layout: Layout, first: int, count: int) -> torch.Tensor:
    return torch.arange(first, first + count).expand(layout.axes, -1)


def steps(
    adapter: Adapter, layout: Layout, x: torch.Tensor, begin: int, count: int, cursor: Cursor, fps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Cursor]:
    """(embeddings, positions, which are visual, where the next begins) of steps without carriers."""
    embeds, positions, at = [], [], []
    for n in range(begin, min(begin + count, len(x))):
        before, behind = adapter.around(n, fps)
        place = layout.place(cursor, len(before), len(behind))
        tokens = x[n].flatten(0, 1)
        embeds += [adapter.embed(before), tokens, adapter.embed(behind)]
        stay = torch.ones(place.positions.shape[1], dtype=torch.bool)
        stay[len(before) + len(tokens)] = False
        positions.append(place.positions[:, stay])
        at += [False] * len(before) + [True] * len(tokens) + [False] * len(behind)
        cursor = place.next
    return torch.cat(embeds), torch.cat(positions, 1), torch.tensor(at), cursor


# Models and processors


def test_features_tell_patches_apart(adapter: Adapter):
    x = adapter.features(adapter.pixels(unmodified.film(8))).x
    unit = torch.nn.functional.normalize(x, dim=-1)
    area = x.shape[1] * x.shape[2]
    unlike = (unit[0].flatten(0, 1) @ unit[0].flatten(0, 1).T)[~torch.eye(area, dtype=torch.bool)]
    assert unlike.median() < 0.3
    similar = (unit[1:] * unit[:-1]).sum(-1)
    assert similar[:, -1].min() > 0.95  # the room's last row stands still
    assert similar.flatten(1).min(1).values.max() < 0.8  # something moves


def test_the_same_seed_gives_the_same_model(adapter: Adapter):
    ours, others, more = (unmodified.build(seed, family(adapter))[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(ours[name], others[name]) for name in ours)
    assert any(not torch.equal(ours[name], more[name]) for name in ours)
    assert sum(each.numel() for each in ours.values()) < 600_000


def test_load_gives_the_saved_model_and_processor(adapter: Adapter, tmp_path: Path):
    adapter.model.save_pretrained(tmp_path)
    processor = adapter.processor
    processor.tokenizer.save_pretrained(tmp_path)
    if isinstance(processor, FrameProcessor):
        (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(settings(processor)))
    else:
        processor.save_pretrained(tmp_path)
    again = adapter_of(*models.load(tmp_path, dtype=torch.float32))
    if isinstance(processor, FrameProcessor):
        assert again.processor.model_type == adapter.model.config.model_type
    frames = unmodified.film(2, (60, 90))
    for ours, theirs in zip(adapter.text(messages("video", WHO)), again.text(messages("video", WHO)), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(adapter.features(adapter.pixels(frames)).x, again.features(again.pixels(frames)).x)
    assert not again.model.training


def settings(processor: FrameProcessor) -> dict[str, Any]:
    """What a checkpoint says of its video processor."""
    given = processor.image_processor.to_dict()
    return {name: value for name, value in given.items() if name != "image_processor_type"}


@torchvision
@pytest.mark.parametrize("size", [(84, 112), (93, 131)])
def test_frames_are_normalised_to_the_bits_of_the_video_processor(adapter: Adapter, size: tuple[int, int]):
    """Also where they are resized, and by a processor that leaves a part of it out."""
    video = adapter.processor.video_processor
    frames = unmodified.film(4, (182, 266))[:, : size[0], : size[1]].copy()
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
    whole = {"use_token_compression": False} if hasattr(video, "use_token_compression") else {}
    for leaves in ({}, {"do_normalize": False}):
        other = adapter_of(adapter.model, copy.copy(adapter.processor))
        other.processor.video_processor = type(video)(**{**video.to_dict(), **leaves})
        theirs = other.processor.video_processor(videos=[clip], return_tensors="pt", do_sample_frames=False, **whole)
        pixels = other._processed([frames])["pixel_values_videos"]
        assert pixels.dtype == torch.float32
        assert torch.equal(pixels, theirs["pixel_values_videos"])


@torchvision
@pytest.mark.parametrize(("size", "worst", "typical"), [((84, 112), 1e-5, 1e-6), ((93, 131), 0.05, 0.01)])
def test_frame_processor_agrees_with_the_video_processor(
    adapter: Adapter, size: tuple[int, int], worst: float, typical: float
):
    """Exactly where nothing is resized; PIL's and torchvision's bicubic differ by a few of 255 levels."""
    video = adapter.processor.video_processor
    if worst < 1e-3 and family(adapter) not in unmodified.PATCHED:
        size = (98, 98) if family(adapter) == "llava_onevision" else (112, 112)
    frames = unmodified.film(4, (182, 266))[:, : size[0], : size[1]].copy()
    smooth = np.cumsum(np.cumsum(frames.astype(np.int64) % 3, axis=1), axis=2)
    frames = (255 * smooth / smooth.max()).astype(np.uint8)
    images = adapter.frame_images(video.to_dict())
    stand_in = adapter_of(adapter.model, FrameProcessor(adapter.processor.tokenizer, images, ""))
    ours, theirs = stand_in.pixels(frames), adapter.pixels(frames)
    if isinstance(ours, tuple):
        assert torch.equal(ours[1], theirs[1])
        ours, theirs = ours[0], theirs[0]
    error = (ours - theirs).abs()
    assert error.max() < worst
    assert error.mean() < typical


def test_an_unknown_family_lists_the_known(tmp_path: Path):
    for model in (SimpleNamespace(config=SimpleNamespace(model_type="gpt2")), object()):
        with pytest.raises(ValueError, match="pixels, features, layout and grids") as caught:
            models.adapter(model)
        assert all(name in str(caught.value) for name in tiny.NAMES)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="internvl"):
        models.load(tmp_path)


def test_a_processor_that_lacks_something_is_refused(adapter: Adapter):
    with pytest.raises(TypeError, match="processor"):
        type(adapter)(adapter.model, object())


def test_the_model_alone_tells_where_videos_are(adapter: Adapter, tmp_path: Path):
    """InternVL's with the tokenizer of its checkpoint."""
    given = unmodified.inputs(adapter.model, adapter.processor, unmodified.film(4), WHO, 2.0)
    model = copy.copy(adapter.model)
    if family(adapter) == "internvl":
        with pytest.raises(ValueError, match="checkpoint"):
            type(adapter).without_processor(model)
        adapter.processor.tokenizer.save_pretrained(tmp_path)
        model.name_or_path = str(tmp_path)
    alone = type(adapter).without_processor(model)
    ((ours,),), ((theirs,),) = alone.grids(given["input_ids"], given), adapter.grids(given["input_ids"], given)
    assert torch.equal(ours, theirs)
    assert alone.visual_token_id == adapter.visual_token_id


def test_a_video_that_was_compressed_is_refused():
    adapter = adapter_of(*unmodified.build(family="video_llama_3"))
    given = unmodified.inputs(adapter.model, adapter.processor, unmodified.film(2), WHO, 2.0)
    with pytest.raises(ValueError, match="video_grid_thw"):
        adapter.grids(given["input_ids"], {**given, "video_grid_thw": None})
    given["video_compression_mask"][3] = False
    with pytest.raises(ValueError, match="use_token_compression"):
        adapter.grids(given["input_ids"], given)


@pytest.mark.parametrize("name", unmodified.GLM)
def test_more_videos_than_their_sizes_are_refused(name: str):
    adapter = adapter_of(*unmodified.build(family=name))
    given = unmodified.inputs(adapter.model, adapter.processor, unmodified.film(2), WHO, 2.0)
    for sizes in (None, torch.empty(0, 3, dtype=torch.int64)):
        with pytest.raises(ValueError, match="video_grid_thw must have a row for each video of the prompt"):
            adapter.grids(given["input_ids"], {**given, "video_grid_thw": sizes})


def test_attention_that_takes_no_mask_gets_none(monkeypatch: pytest.MonkeyPatch):
    model, _ = unmodified.build()
    monkeypatch.setattr(model.config.get_text_config(), "_attn_implementation", "flash_attention_2")
    with pytest.raises(ValueError, match="must be sdpa or eager to take a mask, got 'flash_attention_2'"):
        attention_mask(torch.ones(2, 2, dtype=torch.bool), model)
