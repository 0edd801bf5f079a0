"""`pruned` against the unmodified model, and against prompts pruned by hand."""

from __future__ import annotations

import copy
import functools
import pickle
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
import torch
import unmodified

import streamprune_triton as sp
from streamprune_triton import models
from streamprune_triton.pruned import context

FAMILIES = models.tiny.NAMES
IMAGES = (*unmodified.PAIRED, "internvl")  # whose image inputs are made here
AROUND = dict.fromkeys(unmodified.GLM, ("<|begin_of_image|>", "<|end_of_image|>")) | {"internvl": ("<img>", "</img>")}
NOTHING = sp.PruneConfig(temporal_threshold=None, spatial_threshold=None)
USUAL = sp.PruneConfig()
COUNT = 6  # new tokens


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request, tmp_path_factory) -> tuple[Any, Any]:
    model, processor = unmodified.build(0, request.param)
    model.name_or_path = str(tmp_path_factory.mktemp(request.param))
    processor.tokenizer.save_pretrained(model.name_or_path)
    return model, processor


@pytest.fixture
def model(tiny) -> Any:
    return tiny[0]


@pytest.fixture(params=["sdpa", "eager"])
def either(request, tiny) -> Iterator[Any]:
    """The model with one attention or the other."""
    tiny[0].set_attn_implementation(request.param)
    yield tiny[0]
    tiny[0].set_attn_implementation("sdpa")


@pytest.fixture(scope="module")
def prompts(tiny) -> list[dict[str, torch.Tensor]]:
    """Three prompts of different lengths and kept counts; of different grids where a batch may have such."""
    cases = [(12, (84, 112), "What?"), (4, (56, 84), "What is it that moves there?"), (8, (112, 84), "")]
    frames = 6 if tiny[0].config.model_type.startswith(("llava", "smolvlm")) else None
    return [asked(*tiny, unmodified.film(frames or n, size, n), text) for n, size, text in cases]


def asked(model: Any, processor: Any, frames: np.ndarray, question: str) -> dict[str, torch.Tensor]:
    """What the processor makes of a question about a clip."""
    return unmodified.inputs(model, processor, frames, question, 1.0)


def batch(prompts: list[dict[str, torch.Tensor]], pad: int) -> dict[str, torch.Tensor]:
    """The prompts as one batch, padded on the left."""
    longest = max(each["input_ids"].shape[1] for each in prompts)
    by_column = {"input_ids": pad, "attention_mask": 0, "mm_token_type_ids": 0}

    def join(name: str) -> torch.Tensor:
        values = [each[name] for each in prompts]
        if name in by_column:
            pads = [(longest - value.shape[1], 0) for value in values]
            values = [torch.nn.functional.pad(v, p, value=by_column[name]) for v, p in zip(values, pads, strict=True)]
        return torch.cat(values)

    return {name: join(name) for name in prompts[0]}


def to_the_left(given: dict[str, torch.Tensor], prompts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The batch with its padding on the right."""
    by_column = [name for name in ("input_ids", "attention_mask", "mm_token_type_ids") if name in given]

    def rolled(name: str) -> torch.Tensor:
        rows = zip(given[name], prompts, strict=True)
        return torch.stack([row.roll(prompt["input_ids"].shape[1]) for row, prompt in rows])

    return {**given, **{name: rolled(name) for name in by_column}}


def behind(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One prompt with the text and the videos of two."""
    by_column = ("input_ids", "attention_mask", "mm_token_type_ids")
    names = {**first, **second}
    both = {name: [each[name] for each in (first, second) if name in each] for name in names}
    return {name: torch.cat(values, int(name in by_column)) for name, values in both.items()}


def image(model: Any, processor: Any) -> dict[str, torch.Tensor]:
    """A prompt about an image. Skips where the family's inputs for it are not made here."""
    kind = model.config.model_type
    if kind not in IMAGES:
        pytest.skip(f"image inputs of {kind} are not made here")
    given = asked(model, processor, unmodified.film(2, (56, 84), 5), "")
    adapter, words = models.adapter(model)(model, processor), processor.tokenizer
    count = int((given["input_ids"] == adapter.visual_token_id).sum()) // (2 if kind == "internvl" else 1)
    around = AROUND.get(kind, ("<|vision_start|>", "<|vision_end|>"))
    first, last = (words(text, return_tensors="pt")["input_ids"] for text in ("Here: " + around[0], around[1] + " So?"))
    ids = torch.cat([first, torch.full((1, count), model.config.image_token_id), last], 1)
    made = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "internvl":
        return {**made, "pixel_values": given["pixel_values"][:1]}
    if "mm_token_type_ids" in given:
        made["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    return {**made, "pixel_values": given["pixel_values_videos"], "image_grid_thw": given["video_grid_thw"]}


def generate(model: Any, given: dict[str, torch.Tensor], **options: Any) -> Any:
    options = {"max_new_tokens": COUNT, "do_sample": False, "eos_token_id": 10**6, **options}
    return model.generate(**given, **options, output_logits=True, return_dict_in_generate=True)


def forward(model: Any, given: dict[str, torch.Tensor], **options: Any) -> Any:
    with torch.no_grad():
        return model(**given, **options)


def decoder(model: Any) -> Any:
    return models.adapter(model).without_processor(model).language_model


def visual_token_id(model: Any) -> int:
    return models.adapter(model).without_processor(model).visual_token_id


@contextmanager
def watched(module: Any) -> Iterator[list[dict[str, Any]]]:
    """The arguments of every call of the module."""
    seen: list[dict[str, Any]] = []
    handle = module.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    yield seen
    handle.remove()


class ByHand:
    """A prompt pruned where its embeddings enter the decoder, then one token after the other."""

    def __init__(self, model: Any, given: dict[str, torch.Tensor], config: sp.PruneConfig) -> None:
        self.model = model
        with watched(decoder(model)) as seen:
            forward(model, given)
        embeds = seen[0]["inputs_embeds"]
        positions = seen[0].get("position_ids")
        if positions is None:
            positions = torch.arange(embeds.shape[1])[None]
        self.keep = torch.ones(embeds.shape[1], dtype=torch.bool)
        adapter = models.adapter(model).without_processor(model)
        for grid in adapter.grids(given["input_ids"], given)[0]:
            self.keep[grid] = sp.prune(embeds[0, grid], config).keep
        self.embeds, self.positions = embeds[:, self.keep], positions[..., self.keep]
        self.next = int(positions.max()) + 1
        self.deepstack = {}
        visual = seen[0].get("visual_pos_masks")
        if visual is not None:
            rows = self.keep[visual[0]]
            levels = [level[rows] for level in seen[0]["deepstack_visual_embeds"]]
            self.deepstack = {"visual_pos_masks": visual[:, self.keep], "deepstack_visual_embeds": levels}

    @torch.no_grad()
    def logits(self, text: list[int]) -> torch.Tensor:
        """(K + len(text), V) of the pruned prompt and text behind it."""
        more = self.model.get_input_embeddings()(torch.tensor([text], dtype=torch.int64))
        places = torch.arange(self.next, self.next + len(text)).expand(*self.positions.shape[:-1], -1)
        extra = {name: value for name, value in self.deepstack.items() if name != "visual_pos_masks"}
        if extra:
            seen = torch.nn.functional.pad(self.deepstack["visual_pos_masks"], (0, len(text)))
            extra["visual_pos_masks"] = seen
        embeds = torch.cat([self.embeds, more], 1)
        hidden = decoder(self.model)(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.int64),  # else a gap in positions parts prompts
            position_ids=torch.cat([self.positions, places], -1),
            use_cache=False,
            **extra,
        ).last_hidden_state
        return self.model.get_output_embeddings()(hidden)[0]

    def answer(self, text: list[int] | None = None) -> list[int]:
        text = list(text or [])
        for _ in range(COUNT):
            text.append(int(self.logits(text)[-1].argmax()))
        return text


def new_tokens(output: Any) -> list[list[int]]:
    return output.sequences[:, -COUNT:].tolist()


# What it computes


def test_nothing_dropped_is_the_unmodified_model(either, prompts):
    for given in (*prompts, batch(prompts, 0)):
        expected = generate(either, given)
        with sp.pruned(either, NOTHING) as report:
            output = generate(either, given)
            logits = forward(either, given).logits
        assert report.drop_ratio == 0
        assert torch.equal(output.sequences, expected.sequences)
        torch.testing.assert_close(torch.stack(output.logits), torch.stack(expected.logits), atol=1e-4, rtol=0)
        valid = given["attention_mask"].bool()
        torch.testing.assert_close(logits[valid], forward(either, given).logits[valid], atol=1e-4, rtol=0)


def test_generate_is_the_prompt_pruned_by_hand(model, prompts):
    for given in prompts:
        hand = ByHand(model, given, USUAL)
        with sp.pruned(model, USUAL) as report:
            output = generate(model, given)
        assert 0.2 < report.drop_ratio < 0.95
        assert output.past_key_values.get_seq_length() == hand.keep.sum() + COUNT - 1
        assert torch.equal(output.sequences[:, :-COUNT], given["input_ids"])
        assert new_tokens(output) == [hand.answer()]
        expected = hand.logits(hand.answer())[-COUNT - 1 : -1]
        torch.testing.assert_close(torch.cat(output.logits), expected, atol=1e-4, rtol=0)


def test_a_model_inside_of_peft(model, prompts):
    class Wrapped(torch.nn.Module):
        """As peft.PeftModel does it, whose own `model` is something else."""

        def __init__(self) -> None:
            super().__init__()
            self.base_model = torch.nn.Module()
            self.base_model.model = model
            self.model, self.config = model, model.config

        def get_base_model(self) -> Any:
            return self.base_model.model

        def generate(self, **given: Any) -> Any:
            return self.base_model.model.generate(**given)

    with sp.pruned(model, USUAL) as expected:
        plain = generate(model, prompts[0])
    wrapped = Wrapped()
    with sp.pruned(wrapped, USUAL) as report:
        found = generate(wrapped, prompts[0])
    assert new_tokens(found) == new_tokens(plain)
    assert report.drop_ratio == expected.drop_ratio > 0


def test_forward_keeps_its_shape(model, prompts):
    """A dropped token has the logits of the token before it that stayed."""
    hand = ByHand(model, prompts[0], USUAL)
    with sp.pruned(model, USUAL):
        output = forward(model, prompts[0], output_hidden_states=True)
    assert output.logits.shape[:2] == prompts[0]["input_ids"].shape
    expected = hand.logits([])[hand.keep.cumsum(0) - 1]
    torch.testing.assert_close(output.logits[0], expected, atol=1e-4, rtol=0)
    for hidden in output.hidden_states or ():
        assert hidden.shape[:2] == prompts[0]["input_ids"].shape


@pytest.mark.parametrize("return_dict", [True, False])
def test_hidden_states_of_the_model_without_its_head(model, prompts, return_dict: bool):
    given = batch(prompts, 0)
    with sp.pruned(model, USUAL), torch.no_grad():
        expected = model(**given, output_hidden_states=True).hidden_states
        output = model.model(**given, output_hidden_states=True, return_dict=return_dict)
    layers = output.hidden_states if return_dict else next(each for each in output if isinstance(each, tuple))
    assert len(layers) == len(expected)
    assert {each.shape for each in layers} == {output[0].shape}
    for ours, theirs in zip(layers[:-1], expected[:-1], strict=True):  # the last may be normed in one, not the other
        assert torch.equal(ours, theirs)


def test_hidden_states_of_some_layers(model, prompts):
    """Newer releases leave out the others; older ones take any list for True."""
    with sp.pruned(model, USUAL):
        layers = forward(model, prompts[0], output_hidden_states=[1]).hidden_states
    assert {each.shape[:2] for each in layers if each is not None} == {prompts[0]["input_ids"].shape}


@pytest.mark.parametrize("config", [USUAL, sp.PruneConfig(keep_tokens=2), sp.PruneConfig(max_tokens=1)])
def test_a_batch_is_each_prompt_alone(either, prompts, config: sp.PruneConfig):
    together = batch(prompts, 0)
    with sp.pruned(either, config) as report:
        output = generate(either, together)
        keep = report.keep
        for row, given in enumerate(prompts):
            alone = generate(either, given)
            assert torch.equal(report.keep[0], keep[row])
            assert new_tokens(alone)[0] == new_tokens(output)[row]
            ours, theirs = torch.stack(output.logits)[:, row], torch.stack(alone.logits)[:, 0]
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert len({int(each.sum()) for each in keep}) > 1 or config.keep_tokens is not None


def test_a_batch_shares_one_launch(tiny, prompts, monkeypatch):
    calls = []
    run = sp.pruner.ops.run
    monkeypatch.setattr(sp.pruner.ops, "run", lambda xs, *more: calls.append(len(xs)) or run(xs, *more))
    with sp.pruned(tiny[0]):
        generate(tiny[0], batch(prompts, 0))
    assert calls == [3]


def test_several_videos_in_a_prompt(model, prompts):
    both = behind(prompts[0], prompts[1])
    hand = ByHand(model, both, USUAL)
    with sp.pruned(model, USUAL) as report:
        output = generate(model, both)
        assert len(report.keep) == 2
        assert new_tokens(output) == [hand.answer()]
        together = generate(model, batch([both, prompts[2]], 0))
        assert len(report.keep) == 3
        assert new_tokens(together) == [hand.answer(), *new_tokens(generate(model, prompts[2]))]


def test_right_padding(either, prompts):
    """As in training: every token's logits are those of its prompt alone."""
    given = to_the_left(batch(prompts[:2], 0), prompts[:2])
    with sp.pruned(either, USUAL):
        together = forward(either, given).logits
        for row in range(2):
            alone = forward(either, prompts[row]).logits[0]
            torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-4, rtol=0)


def test_images_beside_videos_stay_whole(tiny, model, prompts):
    picture = image(*tiny)
    if model.config.model_type in unmodified.GLM:
        pytest.skip("the unmodified model takes images or videos, not both")
    seen = picture["input_ids"][0] == model.config.image_token_id
    given = behind(prompts[0], picture)
    hand = ByHand(model, given, USUAL)
    assert hand.keep[-len(seen) :].all()
    assert seen.sum() > 3
    with sp.pruned(model, USUAL) as report:
        assert new_tokens(generate(model, given)) == [hand.answer()]
        assert len(report.keep) == 1


def test_without_a_video_nothing_changes(model, prompts):
    words = {name: value[:, -9:] for name, value in prompts[0].items() if name in ("input_ids", "attention_mask")}
    assert_untouched(model, words)


def test_with_images_alone_nothing_changes(tiny, model):
    assert_untouched(model, image(*tiny))


def assert_untouched(model: Any, given: dict[str, torch.Tensor]) -> None:
    expected, logits = generate(model, given), forward(model, given).logits
    with sp.pruned(model, sp.PruneConfig(keep_tokens=0)) as report:
        output = generate(model, given)
        assert torch.equal(forward(model, given).logits, logits)
    assert report.keep == []
    assert torch.equal(torch.stack(output.logits), torch.stack(expected.logits))


# How it is generated


def test_every_frame_may_go(model, prompts):
    hand = ByHand(model, prompts[0], sp.PruneConfig(keep_tokens=0))
    with sp.pruned(model, sp.PruneConfig(keep_tokens=0)) as report:
        assert new_tokens(generate(model, prompts[0])) == [hand.answer()]
    assert report.drop_ratio == 1


def beams(model: Any, given: dict[str, torch.Tensor], **options: Any) -> Any:
    """Of the unmodified model. Skips where it cannot."""
    try:
        return generate(model, given, **options)
    except ValueError as error:
        if model.config.model_type not in unmodified.GLM:
            raise
        pytest.skip(f"newer releases lose the video of its beams: {error}")


def test_beam_search(either, prompts):
    """With nothing dropped as the unmodified model; with tokens dropped, a batch as each prompt alone."""
    options = {"num_beams": 3, "num_return_sequences": 2}
    given = batch(prompts, 0)
    expected = beams(either, given, **options)
    with sp.pruned(either, NOTHING):
        assert torch.equal(generate(either, given, **options).sequences, expected.sequences)
    with sp.pruned(either, USUAL) as report:
        together = new_tokens(generate(either, given, **options))
        assert report.drop_ratio > 0.2
        alone = [new_tokens(generate(either, each, **options)) for each in prompts]
    assert together == [beam for beams in alone for beam in beams]


def test_beams_of_several_videos_in_a_prompt(model, prompts):
    """Of different grids: each beam has its prompt's own."""
    both, options = behind(prompts[0], prompts[1]), {"num_beams": 2}
    given = batch([both, prompts[2]], 0)
    expected = beams(model, given, **options)
    with sp.pruned(model, NOTHING) as report:
        assert torch.equal(generate(model, given, **options).sequences, expected.sequences)
    if not model.config.model_type.startswith("llava"):  # in older releases, its beams mix up the videos of a prompt
        shapes = [keep.shape for keep in report.keep]
        assert shapes == [*shapes[:2] * 2, *shapes[-1:] * 2]
        assert len(set(shapes)) > 1 or model.config.model_type == "smolvlm"  # frames of a batch are in one tensor
        with sp.pruned(model, USUAL):
            together = new_tokens(generate(model, given, **options))
            assert together == [new_tokens(generate(model, each, **options))[0] for each in (both, prompts[2])]


def test_sampling(model, prompts):
    hand = ByHand(model, prompts[0], USUAL)
    torch.manual_seed(3)
    with sp.pruned(model, USUAL):
        output = generate(model, prompts[0], do_sample=True, top_k=0, temperature=2.0)
    torch.manual_seed(3)
    text: list[int] = []
    for _ in range(COUNT):
        chances = torch.softmax(hand.logits(text)[-1:] / 2.0, -1)
        text.append(int(torch.multinomial(chances, 1)))
    assert new_tokens(output) == [text]
    assert text != hand.answer()


def test_without_a_cache(model, prompts):
    if model.config.model_type == "smolvlm":
        whole = (generate(model, prompts[0], use_cache=use_cache).sequences for use_cache in (True, False))
        if not torch.equal(*whole):
            pytest.skip("older releases show the unmodified model its pictures only once")
    hand = ByHand(model, prompts[0], USUAL)
    with sp.pruned(model, USUAL):
        assert new_tokens(generate(model, prompts[0], use_cache=False)) == [hand.answer()]


def test_a_loop_of_forward_calls(model, prompts):
    """No positions are given, and the model would take them from the cache's length."""
    given = batch(prompts, 0)
    mask, tokens = given["attention_mask"], []
    with sp.pruned(model, USUAL):
        expected = new_tokens(generate(model, given))
        output = forward(model, given, use_cache=True)
        for _ in range(COUNT):
            tokens.append(output.logits[:, -1].argmax(-1, keepdim=True))
            mask = torch.cat([mask, torch.ones_like(tokens[-1])], 1)
            output = forward(
                model, {"input_ids": tokens[-1], "attention_mask": mask}, past_key_values=output.past_key_values
            )
    assert torch.cat(tokens, 1).tolist() == expected


@pytest.mark.parametrize("copied", [False, True])
def test_a_second_question(model, prompts, copied: bool):
    hand = ByHand(model, prompts[0], USUAL)
    first = hand.answer()
    question = [5, 17, 30, 8]
    with sp.pruned(model, USUAL):
        output = generate(model, prompts[0])
        cache = copy.deepcopy(output.past_key_values) if copied else output.past_key_values
    ids = torch.cat([output.sequences, torch.tensor([question])], 1)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "past_key_values": cache}
    with sp.pruned(model, USUAL):
        again = generate(model, given)
        assert torch.equal(again.sequences[:, :-COUNT], ids)
        assert new_tokens(again) == [hand.answer([*first, *question])[-COUNT:]]
        tail = torch.cat([again.sequences[:, -1:], torch.tensor([question])], 1)
        logits = forward(model, {"input_ids": tail, "past_key_values": cache}).logits
    text = [*first, *question, *new_tokens(again)[0], *question]
    torch.testing.assert_close(logits[0], hand.logits(text)[-len(question) - 1 :], atol=1e-4, rtol=0)


@pytest.mark.parametrize("right", [False, True])
def test_a_second_question_to_a_batch(model, prompts, right: bool):
    """Padded again, by the masks: on the left, whatever the prompts were."""
    if model.config.model_type in unmodified.LINEAR:
        pytest.skip("padding behind a text leaves a trace in the unmodified model, too")
    given = batch(prompts[:2], 0)
    if right:
        given = to_the_left(given, prompts[:2])
    with sp.pruned(model, USUAL):
        output = forward(model, given, use_cache=True)
        alone = [forward(model, each, use_cache=True) for each in prompts[:2]]
        tails = [[9, 8, 7], [0, 5, 6]]
        mask = torch.cat([given["attention_mask"], torch.tensor([[1, 1, 1], [0, 1, 1]])], 1)
        more = {"input_ids": torch.tensor(tails), "attention_mask": mask, "past_key_values": output.past_key_values}
        logits = forward(model, more).logits[:, -1]
        for row, text in enumerate(([9, 8, 7], [5, 6])):
            last = {"input_ids": torch.tensor([text]), "past_key_values": alone[row].past_key_values}
            torch.testing.assert_close(logits[row], forward(model, last).logits[0, -1], atol=1e-4, rtol=0)


def croppable(model: Any) -> None:
    """Skips where a cache cannot be cut."""
    if model.config.model_type in unmodified.LINEAR:
        pytest.skip("nothing can be cut from a state of linear attention")


@pytest.mark.parametrize("family", unmodified.LINEAR)
def test_padding_behind_a_cached_text_is_refused_with_linear_attention(family: str):
    """It would leave a trace in the state."""
    model, processor = unmodified.build(0, family)
    moves = asked(model, processor, unmodified.film(8), "What?")
    rests = {**moves, "pixel_values_videos": moves["pixel_values_videos"][:1].expand_as(moves["pixel_values_videos"])}
    given = batch([moves, rests], 0)
    words = {name: given[name][:, :5] for name in ("input_ids", "attention_mask")}
    with sp.pruned(model, USUAL):
        cache = forward(model, words, use_cache=True).past_key_values
        with pytest.raises(ValueError, match="different lengths"):
            generate(model, {**given, "past_key_values": cache})


def test_a_cache_that_was_emptied_is_used_again(model, prompts):
    croppable(model)
    with sp.pruned(model, USUAL):
        expected = new_tokens(generate(model, prompts[1]))
        cache = forward(model, prompts[0], use_cache=True).past_key_values
        cache.crop(-cache.get_seq_length())
        assert cache.get_seq_length() == 0
        assert new_tokens(generate(model, {**prompts[1], "past_key_values": cache})) == expected


def test_an_emptied_cache_forgets_its_prompt(model, prompts):
    croppable(model)
    words = torch.arange(600)[None] % 64

    def read(cache: Any) -> torch.Tensor:
        model.model.rope_deltas = None  # of the prompt before
        forward(model, {"input_ids": words}, past_key_values=cache)
        return forward(model, {"input_ids": words[:, :5]}, past_key_values=cache).logits

    with sp.pruned(model, NOTHING):
        cache = forward(model, prompts[0], use_cache=True).past_key_values
        assert 0 < cache.get_seq_length() < 600
        cache.crop(-cache.get_seq_length())
        found = read(cache)
    assert torch.equal(found, read(type(cache)(config=model.config)))
    read(cache)  # now as any other, outside


COPIES = {"itself": lambda cache: cache, "copied": copy.deepcopy, "pickled": lambda it: pickle.loads(pickle.dumps(it))}


@pytest.mark.parametrize("kind", COPIES)
def test_a_pruned_prompt_does_not_grow_outside(model, prompts, kind: str):
    """Its cache can be read there; and a call that was refused has changed nothing of it."""
    more = {"input_ids": torch.tensor([[5, 17, 30]])}
    with sp.pruned(model, USUAL):
        output = generate(model, prompts[0])
        expected = forward(model, more, past_key_values=copy.deepcopy(output.past_key_values)).logits
        prompt = forward(model, prompts[0], use_cache=True).past_key_values
    cache = COPIES[kind](output.past_key_values)
    whole = {"input_ids": torch.cat([output.sequences, more["input_ids"]], 1)}
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    count = cache.get_seq_length()
    for call, given in ((forward, more), (generate, whole)):
        with pytest.raises(ValueError, match=r"^past_key_values must not hold a pruned prompt here: .* or begin anew$"):
            call(model, given, past_key_values=cache)
    assert cache.get_seq_length() == count
    with sp.pruned(model, USUAL):
        assert torch.equal(forward(model, more, past_key_values=cache).logits, expected)
    for each in (cache, prompt):
        with pytest.raises(ValueError, match="must not hold a pruned prompt here"):
            forward(model, more, past_key_values=each)


def test_a_pruned_prompt_does_not_grow_outside_after_a_call_that_failed(tiny, prompts):
    model, words = tiny[0], {"input_ids": torch.tensor([[5]])}

    def fail(*_: Any) -> None:
        raise RuntimeError("broken")

    with sp.pruned(model, USUAL):
        cache = forward(model, prompts[0], use_cache=True).past_key_values
        handle = decoder(model).layers[0].register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="broken"):
            forward(model, words, past_key_values=cache)
        handle.remove()
    with pytest.raises(ValueError, match="must not hold a pruned prompt here"):
        forward(model, words, past_key_values=cache)


def test_a_video_behind_a_cached_text(model, prompts):
    """A prefix that holds no video is continued as the unmodified model does."""
    given = prompts[0]
    words = {name: value[:, :5] for name, value in given.items() if name in ("input_ids", "attention_mask")}

    def answer() -> Any:
        model.model.rope_deltas = None  # some releases go on with those of another prompt
        return generate(model, {**given, "past_key_values": forward(model, words, use_cache=True).past_key_values})

    expected, whole = answer(), generate(model, given)
    with sp.pruned(model, NOTHING):
        assert torch.equal(answer().sequences, expected.sequences)
    with sp.pruned(model, USUAL):
        output, alone = answer(), generate(model, given)
    assert output.past_key_values.get_seq_length() == alone.past_key_values.get_seq_length()
    if torch.equal(expected.sequences, whole.sequences):  # older releases take the video for text there
        assert torch.equal(output.sequences, alone.sequences)


def test_a_model_from_no_checkpoint_is_pruned_with_its_processor(tiny, prompts, monkeypatch):
    model, processor = tiny
    with sp.pruned(model, USUAL):
        expected = generate(model, prompts[0]).sequences
    monkeypatch.setattr(model, "name_or_path", "")
    with sp.pruned(model, USUAL, processor=processor) as report:
        assert torch.equal(generate(model, prompts[0]).sequences, expected)
    assert report.drop_ratio > 0


def test_masks_are_of_two_axes(tiny, prompts):
    """What every attention implementation takes, FlashAttention's packed path included."""
    with sp.pruned(tiny[0]), watched(decoder(tiny[0])) as seen:
        output = generate(tiny[0], batch(prompts, 0))
    cached = output.past_key_values.get_seq_length()
    assert [given["attention_mask"].shape for given in seen] == [(3, cached + n - COUNT + 1) for n in range(COUNT)]
    assert [given["inputs_embeds"].shape[1] for given in seen] == [cached - COUNT + 1] + [1] * (COUNT - 1)


def test_threads_of_one_context(tiny, prompts):
    """Every thread's calls are pruned, and none sees another's."""
    model, found = tiny[0], {}
    if model.config.model_type.startswith("llava"):
        pytest.skip("older releases swap methods of its vision tower while they run")

    def work(name: int) -> None:
        for _ in range(3):
            found.setdefault(name, []).append(new_tokens(generate(model, prompts[name])))

    with sp.pruned(model):
        expected = [new_tokens(generate(model, given)) for given in prompts]
        threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {name: [expected[name]] * 3 for name in range(3)}


def dispatched(model: Any, patch: pytest.MonkeyPatch) -> None:
    """Forwards that rebuild what comes and goes, as accelerate's do where a model is on several devices."""

    def rebuilt(value: Any) -> Any:
        if isinstance(value, dict):
            return type(value)({name: rebuilt(each) for name, each in value.items()})
        return type(value)(map(rebuilt, value)) if isinstance(value, tuple | list) else value

    def sending(run: Any) -> Any:
        return functools.wraps(run)(lambda *args, **kwargs: rebuilt(run(*rebuilt(args), **rebuilt(kwargs))))

    for module in (model, model.model, *model.model.children()):
        patch.setitem(vars(module), "forward", sending(module.forward))


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_a_model_on_several_devices(model, prompts, monkeypatch, options: dict[str, int]):
    given = batch([behind(prompts[0], prompts[1]), prompts[2]], 0)
    if options:
        beams(model, given, **options)
    with sp.pruned(model, USUAL):
        expected = generate(model, given, **options)
        dispatched(model, monkeypatch)
        output = generate(model, given, **options)
    assert torch.equal(output.sequences, expected.sequences)
    assert output.past_key_values.get_seq_length() == expected.past_key_values.get_seq_length()


def test_compiled_layers():
    """The hooks are around them."""
    torch._dynamo.reset()
    model, processor = unmodified.build(0, "qwen2_5_vl")
    given = asked(model, processor, unmodified.film(8), "What?")
    with sp.pruned(model, USUAL):
        expected = generate(model, given).sequences
    for layer in decoder(model).layers:
        layer.compile(backend="eager")
    decoder(model).forward = torch.compile(decoder(model).forward, backend="eager")
    generate(model, given)
    with sp.pruned(model, USUAL) as report:
        assert torch.equal(generate(model, given).sequences, expected)
    assert report.drop_ratio > 0.2


# Training


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_loss_has_gradients(tiny, prompts, checkpointing: bool):
    model = copy.deepcopy(tiny[0]).train()
    if checkpointing:
        name = "activation_checkpointing_enable"  # its name in newer releases
        getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")()
    given = batch(prompts[:2], 0)
    labels = given["input_ids"].masked_fill(given["input_ids"] == visual_token_id(model), -100)
    labels = labels.masked_fill(given["attention_mask"] == 0, -100)
    with sp.pruned(model, USUAL) as report:
        loss = model(**given, labels=labels, use_cache=False).loss
        loss.backward()
    assert report.drop_ratio > 0.2
    assert all(each.grad is None or each.grad.isfinite().all() for each in model.parameters())
    text = decoder(model).layers
    inside = {id(each) for each in text.parameters()}
    tower = [each for name, each in model.named_parameters() if "visual" in name or "vision" in name]
    assert tower
    for parameters in (list(text.parameters()), [each for each in tower if id(each) not in inside]):
        assert sum(each.grad.abs().max() > 0 for each in parameters if each.grad is not None) > 0


def test_the_loss_is_that_of_the_prompt_pruned_by_hand(tiny, prompts):
    model, given = tiny[0], prompts[0]
    hand = ByHand(model, given, USUAL)
    labels = given["input_ids"].masked_fill(given["input_ids"] == visual_token_id(model), -100)
    with sp.pruned(model, USUAL):
        loss = forward(model, given, labels=labels).loss
    expected = torch.nn.functional.cross_entropy(hand.logits([])[:-1], labels[0, hand.keep][1:])
    torch.testing.assert_close(loss, expected)


# Leaving no trace


def traces(model: Any) -> dict[str, Any]:
    """Everything that the model's modules hold, by name."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            found[f"{name}:{key}"] = dict(value) if isinstance(value, dict) else value
    return found


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        if isinstance(value, dict):
            assert value.keys() == after[key].keys()
            assert all(each is after[key][name] for name, each in value.items())
        else:
            assert value is after[key], key


def test_the_model_is_what_it_was(tiny, prompts):
    model = tiny[0]
    generate(model, prompts[1])
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before, expected = traces(model), forward(model, prompts[0]).logits
    before = traces(model)
    with sp.pruned(model):
        generate(model, batch(prompts, 0))
    assert_same(before, traces(model))
    with pytest.raises(ZeroDivisionError), sp.pruned(model):
        forward(model, prompts[2]).logits[0, 0, 0].item() / 0
    assert_same(before, traces(model))
    with pytest.raises(ValueError, match="mask"), sp.pruned(model, sp.PruneConfig(mask=torch.ones(9, 9).bool())):
        generate(model, prompts[0])
    assert_same(before, traces(model))
    assert torch.equal(forward(model, prompts[0]).logits, expected)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_call_that_failed_leaves_nothing_for_the_next(tiny, prompts):
    """A prompt whose features do not fit fails before the decoder, which is then called by itself."""
    model, given = tiny[0], prompts[0]
    if model.config.model_type == "smolvlm" and not hasattr(model.model, "get_placeholder_mask"):
        pytest.skip("older releases do not count its pictures")
    embeds = torch.randn(1, 7, decoder(model).config.hidden_size)
    broken = {**given, "input_ids": given["input_ids"][:, :-40], "attention_mask": given["attention_mask"][:, :-40]}
    expected = decoder(model)(inputs_embeds=embeds).last_hidden_state
    with sp.pruned(model):
        with pytest.raises((ValueError, RuntimeError, IndexError)):
            forward(model, broken)
        assert torch.equal(decoder(model)(inputs_embeds=embeds).last_hidden_state, expected)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_call_that_failed_in_the_decoder_leaves_nothing_for_the_next(tiny, prompts, error: type[BaseException]):
    model = tiny[0]
    embeds = torch.randn(1, 7, decoder(model).config.hidden_size)
    expected = decoder(model)(inputs_embeds=embeds).last_hidden_state

    def fail(*_: Any) -> None:
        raise error

    with sp.pruned(model):
        whole = new_tokens(generate(model, prompts[0]))
        handle = decoder(model).layers[1].register_forward_pre_hook(fail)
        with pytest.raises(error):
            generate(model, prompts[0])
        handle.remove()
        assert torch.equal(decoder(model)(inputs_embeds=embeds).last_hidden_state, expected)
        assert new_tokens(generate(model, prompts[0])) == whole


def test_an_interrupt_on_the_way_in_leaves_nothing(tiny, monkeypatch):
    model = tiny[0]
    before = traces(model)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(vars(decoder(model)), "register_forward_hook", interrupted)
        with pytest.raises(KeyboardInterrupt), sp.pruned(model):
            pass
    assert_same(before, traces(model))
    with sp.pruned(model):
        pass


def test_positional_arguments(tiny, prompts):
    model, given = tiny[0], dict(prompts[0])
    hand = ByHand(model, given, USUAL)
    with sp.pruned(model):
        logits = model(given.pop("input_ids"), **given).logits
        with torch.no_grad():
            ids, given = prompts[0]["input_ids"], {k: v for k, v in prompts[0].items() if k != "input_ids"}
            hidden = model.model(ids, **given).last_hidden_state
    torch.testing.assert_close(logits[0, hand.keep], hand.logits([]), atol=1e-4, rtol=0)
    assert torch.equal(model.get_output_embeddings()(hidden), logits)


# What is refused


def test_one_context_at_a_time(tiny):
    with sp.pruned(tiny[0]), pytest.raises(ValueError, match="pruned already"), sp.pruned(tiny[0]):
        pass
    with sp.pruned(tiny[0]):
        pass


def test_one_thread_enters(tiny, monkeypatch):
    """Both look before one is in, if they can."""
    both, left, found = threading.Barrier(2), threading.Event(), []

    class Looking(weakref.WeakSet):
        def __contains__(self, item: Any) -> bool:
            there = super().__contains__(item)
            with suppress(threading.BrokenBarrierError):
                both.wait(0.5)
            return there

    def enter() -> None:
        try:
            with sp.pruned(tiny[0]):
                found.append("in")
                left.wait(5)
        except ValueError:
            found.append("refused")
        left.set()

    monkeypatch.setattr(context, "_active", Looking())
    threads = [threading.Thread(target=enter) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["in", "refused"]


def test_bad_arguments(tiny):
    with pytest.raises(ValueError, match="supported family"), sp.pruned(torch.nn.Linear(1, 1)):
        pass
    with pytest.raises(TypeError, match="config"), sp.pruned(tiny[0], 0.5):
        pass
    with pytest.raises(ValueError, match="head"), sp.pruned(tiny[0].model):
        pass


def test_compiled_models_are_refused(tiny):
    """Their hooks are those of when they were compiled."""
    with pytest.raises(ValueError, match="compiled"), sp.pruned(torch.compile(tiny[0], backend="eager")):
        pass
    for part in (lambda model: model, lambda model: model.model, decoder, lambda model: next(model.model.children())):
        compiled = copy.deepcopy(tiny[0])
        part(compiled).compile(backend="eager")
        with pytest.raises(ValueError, match="compiled"), sp.pruned(compiled):
            pass


@pytest.mark.parametrize("part", ["model with its head", "model"])
def test_compiled_forwards_are_refused(tiny, monkeypatch, part: str):
    module = tiny[0] if part == "model with its head" else tiny[0].model
    monkeypatch.setitem(vars(module), "forward", torch.compile(module.forward, backend="eager"))
    with pytest.raises(ValueError, match="compiled"), sp.pruned(tiny[0]):
        pass


def test_static_caches_are_refused(tiny, prompts):
    with sp.pruned(tiny[0]), pytest.raises(ValueError, match="past_key_values must be a cache that grows"):
        generate(tiny[0], prompts[0], cache_implementation="static")


GUESSING = ("prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp", "assistant_model")


@pytest.mark.parametrize("option", [*GUESSING, "prefill_chunk_size"])
def test_options_that_pruning_cannot_go_with_are_refused_before_anything_runs(tiny, prompts, option: str):
    model, value = tiny[0], tiny[0] if option == "assistant_model" else 2
    got = type(model).__name__ if option == "assistant_model" else 2
    line = rf"^{option} must be None where videos are pruned, got {got}: [^\n]*; leave it out or leave `pruned`$"
    tower = next(each for each in model.model.children() if each is not decoder(model))
    given = dict(prompts[0])
    ids = given.pop("input_ids")
    with sp.pruned(model), watched(model) as calls, watched(tower) as pictures:
        with pytest.raises(ValueError, match=line):
            generate(model, prompts[0], **{option: value})
        with pytest.raises(ValueError, match=line):
            model.generate(ids, **given, **{option: value})
    assert calls == pictures == []


def test_options_are_refused_wherever_they_are_set(tiny, prompts, monkeypatch):
    model, name = tiny[0], "prompt_lookup_num_tokens"
    settings = copy.deepcopy(model.generation_config)
    settings.prompt_lookup_num_tokens = 2
    with sp.pruned(model):
        expected = new_tokens(generate(model, prompts[0]))
        with pytest.raises(ValueError, match=f"^{name} must be None"):
            generate(model, prompts[0], generation_config=settings)
        cache = forward(model, prompts[0], use_cache=True).past_key_values
        with pytest.raises(ValueError, match=f"^{name} must be None"):
            model.generate(torch.tensor([[5]]), past_key_values=cache, prompt_lookup_num_tokens=2)
        monkeypatch.setattr(model, "generation_config", settings)
        with pytest.raises(ValueError, match=f"^{name} must be None"):
            generate(model, prompts[0])
        assert new_tokens(generate(model, prompts[0], prompt_lookup_num_tokens=None)) == expected


def test_a_generate_of_the_models_own_is_called_and_left(tiny, prompts, monkeypatch):
    model, calls = tiny[0], []

    def own(*args: Any, **options: Any) -> Any:
        calls.append(options.get("max_new_tokens"))
        return type(model).generate(model, *args, **options)

    monkeypatch.setitem(vars(model), "generate", own)
    with sp.pruned(model) as report:
        generate(model, prompts[0])
    assert report.drop_ratio > 0
    assert calls == [COUNT]
    assert vars(model)["generate"] is own


def assert_free(model: Any, given: dict[str, torch.Tensor]) -> None:
    """Skips where the unmodified model cannot."""
    try:
        expected = generate(model, given, prompt_lookup_num_tokens=2).sequences
    except ValueError as error:
        pytest.skip(f"the unmodified model cannot: {error}")
    with sp.pruned(model):
        assert torch.equal(generate(model, given, prompt_lookup_num_tokens=2).sequences, expected)


def test_options_are_free_without_a_video(tiny, prompts):
    words = {name: value[:, -9:] for name, value in prompts[0].items() if name in ("input_ids", "attention_mask")}
    assert_free(tiny[0], words)


def test_options_are_free_with_images_alone(tiny):
    """Also where their tokens are those of videos."""
    assert_free(tiny[0], image(*tiny))


def test_masks_of_other_shapes_are_refused(tiny, prompts):
    with watched(decoder(tiny[0])) as seen:
        forward(tiny[0], prompts[0])
    length = prompts[0]["input_ids"].shape[1]
    mask = torch.ones(1, 1, length, length).bool().tril()
    given = {**prompts[0], "attention_mask": mask, "position_ids": seen[0].get("position_ids")}
    with sp.pruned(tiny[0]), pytest.raises(ValueError, match="attention_mask must be"):
        forward(tiny[0], given)


def test_videos_without_input_ids_are_refused(tiny, prompts):
    model, given = tiny[0], dict(prompts[0])
    embeds = model.get_input_embeddings()(given.pop("input_ids"))
    if model.config.model_type in ("internvl", "smolvlm"):
        pytest.skip("nothing tells videos from images there")
    with sp.pruned(model), pytest.raises(ValueError, match="input_ids must be given"):
        forward(model, {**given, "inputs_embeds": embeds})


@pytest.mark.parametrize("config", [NOTHING, USUAL, sp.PruneConfig(keep_tokens=71, scope="clip")])
def test_guesses_behind_a_pruned_prompt_are_refused_or_right(tiny, prompts, config: sp.PruneConfig):
    """By the cache, where nobody looked at the options: generate() is not called on the model itself.

    Rejected guesses may be cut from the cache by a length that it does not have; 71 leaves one token out.
    """
    model = tiny[0]

    def answer(**options: int) -> torch.Tensor:
        return type(model).generate(model, **prompts[0], max_new_tokens=24, eos_token_id=10**6, **options)

    try:
        answer(prompt_lookup_num_tokens=8)
    except ValueError as error:
        pytest.skip(f"the unmodified model cannot: {error}")
    with sp.pruned(model, config):
        expected = answer()
        for guesses in (1, 2, 3, 8):
            try:
                found = answer(prompt_lookup_num_tokens=guesses)
            except ValueError as error:
                if "assisted decoding cannot be pruned" not in str(error):
                    raise
            else:
                assert torch.equal(found, expected)


def test_columns_that_the_cache_holds_are_guesses_where_logits_of_several_are_wanted(tiny, prompts):
    """generate() begins too early with the text of a second question; so does assisted decoding after a mistake."""
    model, length = tiny[0], prompts[0]["input_ids"].shape[1]
    with sp.pruned(model, USUAL):
        cache = forward(model, prompts[0], use_cache=True).past_key_values
        count = length - cache.get_seq_length() + 1
        given = {"input_ids": torch.arange(count)[None] % 64, "attention_mask": torch.ones(1, length + 1)}
        with pytest.raises(ValueError, match="assisted"):
            forward(model, given, past_key_values=cache, logits_to_keep=count)
        with pytest.raises(ValueError, match="1 columns"):
            forward(model, {**given, "input_ids": given["input_ids"][:, 1:]}, past_key_values=cache)
        assert forward(model, given, past_key_values=cache).logits.shape[1] == 1


def test_another_video_behind_a_pruned_prompt_is_refused(tiny, prompts):
    with sp.pruned(tiny[0]):
        cache = forward(tiny[0], prompts[0], use_cache=True).past_key_values
        with pytest.raises(ValueError, match="only text"):
            forward(tiny[0], prompts[1], past_key_values=cache)


def test_a_cache_that_lost_rows_or_columns_is_refused(tiny, prompts):
    croppable(tiny[0])
    with sp.pruned(tiny[0]):
        cache = forward(tiny[0], batch(prompts, 0), use_cache=True).past_key_values
        two = torch.tensor([[5], [6]])
        with pytest.raises(ValueError, match="a batch of 3"):
            forward(tiny[0], {"input_ids": two}, past_key_values=cache)
        cache.crop(3 - cache.get_seq_length())
        with pytest.raises(ValueError, match="whole pruned prompt"):
            forward(tiny[0], {"input_ids": torch.tensor([[5]] * 3)}, past_key_values=cache)


def test_packed_prompts_are_refused(tiny, prompts):
    with watched(decoder(tiny[0])) as seen:
        forward(tiny[0], prompts[0])
    places = seen[0].get("position_ids")
    count = prompts[0]["input_ids"].shape[1]
    packed = torch.cat([torch.arange(count - 20), torch.arange(20)])[None]
    if places is not None and places.ndim == 3:
        packed = torch.cat([packed[None], places])
    given = {name: value for name, value in prompts[0].items() if name != "attention_mask"}
    with sp.pruned(tiny[0]), pytest.raises(ValueError, match="packed"):
        forward(tiny[0], {**given, "position_ids": packed})
