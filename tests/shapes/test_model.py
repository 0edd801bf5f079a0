"""The small model: its files, its words, and training's numbers against those of the ordinary forward."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.accuracy import batch as batches
from benchmarks.accuracy import network, packing
from streamprune_triton.models.processor import FrameProcessor
from streamprune_triton.shapes import model as small
from streamprune_triton.shapes import questions, world

STEPS = 9  # more than the grid is wide, so that the releases' rules for text behind a video differ


@pytest.fixture(scope="module")
def built() -> tuple[Any, Any]:
    model, processor = small.build(width=64, layers=4, tower_width=32, tower_layers=2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.2)  # far from the ones and zeros that a model begins with
    return model, processor


@pytest.fixture(scope="module")
def net(built: tuple[Any, Any]) -> network.Network:
    return network.Network(*built).eval()


@pytest.fixture(scope="module")
def clips() -> batches.Clips:
    return batches.make(1, 2, STEPS)


@pytest.fixture(scope="module")
def batch(net: network.Network, clips: batches.Clips) -> batches.Batch:
    with torch.no_grad():
        x = net.features(clips.frames)
    return batches.asked(np.random.default_rng(0), x, clips.labels, clips.known, 6)


def pixels(processor: Any, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the processor makes of frames (F, SIDE, SIDE, 3)."""
    if isinstance(processor, FrameProcessor):
        return processor.patches(frames.numpy())
    made = processor.video_processor(videos=[frames.permute(0, 3, 1, 2)], do_sample_frames=False, return_tensors="pt")
    return made["pixel_values_videos"], made["video_grid_thw"]


def ordinary(built: tuple[Any, Any], frames: torch.Tensor, text: str) -> dict[str, torch.Tensor]:
    """What the model's own forward takes for one question about a clip."""
    model, processor = built
    content = [{"type": "video"}, {"type": "text", "text": text}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    patches, grid = pixels(processor, frames)
    count = int(grid.prod()) // 4
    ids = torch.tensor([processor.tokenizer(prompt.replace("<|video_pad|>", "<|video_pad|>" * count))["input_ids"]])
    given = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": patches,
        "video_grid_thw": grid,
        "second_per_grid_ts": torch.tensor([world.STEP / world.FPS]),
    }
    if "mm_token_type_ids" in inspect.signature(model.model.get_rope_index).parameters:
        given["mm_token_type_ids"] = 2 * (ids == model.config.video_token_id).int()
    return given


def own_positions(model: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """(3, L) by the model's own rule."""
    names = ("input_ids", "mm_token_type_ids", "video_grid_thw", "second_per_grid_ts")
    return model.model.get_rope_index(**{name: given[name] for name in names if name in given})[0][:, 0]


def releases_rule(built: tuple[Any, Any], net: network.Network, clips: batches.Clips) -> torch.Tensor:
    """(1,) bool: whether this release of transformers puts text behind the latest time."""
    first = len(net.words.before)
    positions = own_positions(built[0], ordinary(built, clips.frames[0], "how many shapes ?"))[0]
    return positions[first + STEPS * batches.AREA, None] > first + batches.GRID


def test_patches_are_the_processors(built, clips):
    processor = built[1]
    images = processor.image_processor
    ours = batches.patches(clips.frames, list(images.image_mean), list(images.image_std))
    theirs, grid = pixels(processor, clips.frames[0])
    assert grid.tolist() == [[STEPS, 12, 12]]
    torch.testing.assert_close(ours[:STEPS].flatten(0, 1), theirs, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_batched_tower_is_the_tower(built, batch, clips):
    model, processor = built
    patches, grid = pixels(processor, clips.frames[1])
    output = model.model.visual(patches, grid_thw=grid)
    theirs = getattr(output, "pooler_output", output)
    torch.testing.assert_close(batch.x[1].flatten(0, 1), theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_packed_questions_get_the_logits_they_get_alone(built, net, batch, clips):
    model = built[0]
    frames = clips.frames
    first, behind_time = len(net.words.before), releases_rule(built, net, clips).expand(2)
    keep = torch.arange(STEPS * batches.AREA).expand(2, -1)
    packed = packing.pack(batch, net.words, keep, behind_time)
    logits = net.answer(net.read(batch.x, packed)[-1], packed.asks)
    for clip, slot in [(0, 0), (0, 5), (1, 3)]:
        step, text = int(batch.step[clip, slot]), questions.TEXTS[batch.text[clip, slot]]
        given = ordinary(built, frames[clip, : 2 * step + 2], text)
        alone = model(**given).logits[0, -1]
        torch.testing.assert_close(logits[clip, slot], alone, atol=1e-4, rtol=0)
        context = first + (step + 1) * batches.AREA
        last = int(packed.asks[clip, slot]) + 1
        asked = slice(last - int(net.words.length[batch.text[clip, slot]]), last)
        ours = torch.cat([packed.positions[:, clip, :context], packed.positions[:, clip, asked]], 1)
        assert torch.equal(ours, own_positions(model, given))


def test_text_begins_behind_the_grid_or_behind_the_latest_time(net, batch):
    """Positions of a question's first token by either rule, whichever this release of transformers has."""
    keep = torch.arange(STEPS * batches.AREA).expand(2, -1)
    first, size = len(net.words.before), net.words.slots.shape[1]
    begins = first + keep.shape[1] + torch.arange(batch.text.shape[1]) * size
    by_grid, by_time = (
        packing.pack(batch, net.words, keep, torch.tensor([rule] * 2)).positions[:, :, begins] - first
        for rule in (False, True)
    )
    assert (by_grid == batches.GRID).all()
    assert (by_time == torch.maximum(batch.step + 1, torch.tensor(batches.GRID))).all()
    assert int(by_time.max()) > batches.GRID


def test_a_session_answers_as_training_sees_it(built, net, batch, clips):
    """Nothing dropped, and at a threshold: the word is the likeliest of the packed logits for the same tokens."""
    import streamprune_triton as sp

    model, processor = built
    step, text = int(batch.step[1, 2]), questions.TEXTS[batch.text[1, 2]]
    asked = (each[1:, 2:3] for each in (batch.text, batch.step, batch.answer))
    one = batches.Batch(batch.x[1:, : step + 1], {}, *asked)
    for threshold in (None, 0.9):
        config = sp.PruneConfig(temporal_threshold=threshold, spatial_threshold=None)
        session = sp.StreamingSession(model, processor, config, fps=world.FPS)
        result = session.append(clips.frames[1, : 2 * step + 2].numpy())
        word = session.ask(text, max_new_tokens=1)
        with torch.no_grad():
            packed = packing.pack(one, net.words, result.indices[None], releases_rule(built, net, clips))
            logits = net.answer(net.read(one.x, packed)[-1], packed.asks)[0, 0]
        assert word == processor.tokenizer.decode([int(logits.argmax())], skip_special_tokens=True)
        assert (len(result.indices) < (step + 1) * batches.AREA) == (threshold is not None)


@torch.no_grad()
def test_pruned_it_is_the_model_given_the_kept_tokens(built, net, batch):
    """Rows, positions and mask of a pruned clip are those of the whole, gathered."""
    model = built[0]
    every = torch.arange(STEPS * batches.AREA).expand(2, -1)
    keep = network.chosen(batch.x, 50, "both")
    behind = torch.tensor([True, False])
    whole, part = (packing.pack(batch, net.words, each, behind) for each in (every, keep))
    first = len(net.words.before)
    for clip in range(2):
        rest = torch.arange(first + every.shape[1], whole.positions.shape[2])
        rows = torch.cat([torch.arange(first), first + keep[clip], rest])
        assert torch.equal(part.positions[:, clip], whole.positions[:, clip, rows])
        assert torch.equal(part.mask[clip, 0], whole.mask[clip, 0][rows][:, rows])
    hidden = net.read(batch.x, part)
    assert hidden[0].shape == (2, part.positions.shape[2], model.config.text_config.hidden_size)
    assert torch.equal(hidden[0][1, first : first + 50], batch.x[1].flatten(0, 1)[keep[1]])


def test_the_rank_is_the_operators(batch):
    """Exact budget over a clip, by time, by space on all tokens, and by both."""
    import streamprune_triton as sp

    grid = batch.x[0].unflatten(1, (batches.GRID, batches.GRID))
    for way, mask in (("temporal", None), ("both", "checkerboard")):
        config = sp.PruneConfig(keep_tokens=60, scope="clip", mask=mask)
        assert torch.equal(network.chosen(batch.x[:1], 60, way)[0], sp.prune(grid, config).indices.cpu())
    spatial = sp.prune(grid, sp.PruneConfig(temporal_threshold=None, mask="all")).spatial.flatten()
    assert torch.equal(network.chosen(batch.x[:1], 60, "spatial")[0], spatial.argsort(stable=True)[:60].sort().values)


def test_history_of_colours():
    colour = torch.tensor([[0, 2, 0, 2, 5, 2, 1]])
    new, seen, first, last = network.history(colour)
    assert new.tolist() == [[0, 2, 0, 0, 5, 0, 1]]
    assert seen.sum(-1).tolist() == [[0, 1, 1, 1, 2, 2, 3]]
    assert first[0, 1:].tolist() == [1] * 6
    assert last[0, 1:].tolist() == [1, 1, 1, 4, 4, 0]


def test_every_word_is_known_and_every_answer_is_one_token(built):
    tokenizer = built[1].tokenizer
    for text in questions.TEXTS:
        assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
    for word in questions.ANSWERS:
        (token,) = tokenizer(word)["input_ids"]
        assert tokenizer.decode([token], skip_special_tokens=True) == word
    assert tokenizer("Where is RED?")["input_ids"] == tokenizer("where is red ?")["input_ids"]


def test_saved_it_is_the_same(built, tmp_path):
    small.save(built[0], tmp_path / "model.safetensors")
    again, _ = small.load(tmp_path / "model.safetensors")
    for name, weight in built[0].state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_another_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"path must be a file that save\(\) wrote, got .*a\.safetensors"):
        small.load(tmp_path / "a.safetensors")


def test_one_step_of_training_lowers_the_loss(built, batch):
    from benchmarks.accuracy.optimizers import Optimizers

    torch.manual_seed(0)
    model, processor = small.build(width=64, layers=4, tower_width=32, tower_layers=2)
    net = network.Network(model, processor)
    inner = model.model.language_model
    optimizers = Optimizers([inner, model.lm_head, *net.text_heads], list(inner.layers), 2e-3)
    keep = network.chosen(batch.x, 60, "temporal")
    values = []
    for _ in range(3):
        losses, _ = net.losses(batch, keep, torch.tensor([True, False]))
        loss = torch.stack(list(losses.values())).sum()
        values.append(loss.item())
        optimizers.step(loss, 1.0)
    assert values[2] < values[1] < values[0]
