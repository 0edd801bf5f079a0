"""The Qwen2.5-VL adapter against the model's and the processor's own answers."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import unmodified

from streamprune_triton import PruneConfig, models, prune
from streamprune_triton.models import tiny
from streamprune_triton.models.processor import FrameProcessor, pil_image_processor
from streamprune_triton.models.qwen2_5_vl import Qwen25VL


@pytest.fixture(scope="module")
def tiny_model():
    return unmodified.build()


@pytest.fixture(scope="module")
def family(tiny_model) -> Qwen25VL:
    return Qwen25VL(*tiny_model)


@pytest.mark.parametrize("fps", [0.3, 1.0, 2.0, 3.0, 29.97])
@pytest.mark.parametrize("steps", [1, 2, 7, 70])
@pytest.mark.parametrize("size", [(56, 84), (112, 56)])
def test_positions_are_the_models_own(tiny_model, family: Qwen25VL, fps: float, steps: int, size: tuple[int, int]):
    model, processor = tiny_model
    given = unmodified.inputs(model, processor, unmodified.film(2 * steps, size), "Who?", fps)
    expected = unmodified.rope_index(model, given)
    before, after = family.prompt(None, "Who?")
    _, h, w = given["video_grid_thw"][0].tolist()
    for chunk in (1, 2, 7, steps):
        video = family.positions(before, (h // 2, w // 2), fps)
        parts = [video.steps(n, min(chunk, steps - n)) for n in range(0, steps, chunk)]
        text = torch.arange(len(after)) + video.behind(steps)
        assert torch.equal(torch.cat([*parts, text.expand(3, -1)], 1), expected[:, len(before) :])


def test_a_late_step_does_not_ask_about_the_grid_again(family: Qwen25VL):
    """What one step costs: the model is asked about T x 1 x 1 tokens, each time for twice as many as are needed."""
    before = family.prompt(None, "").before
    video = family.positions(before, (4, 5), 1.0)
    asked: list[tuple[int, int, int]] = []
    ask = video._ask
    video._ask = lambda t, h, w, seconds: asked.append((t, h, w)) or ask(t, h, w, seconds)
    for step in range(500):
        video.steps(step, 1)
        video.behind(step + 1)
    assert asked == [(130, 1, 1), (262, 1, 1), (526, 1, 1)]


def test_a_rule_that_no_stream_can_follow_is_refused(tiny_model, family: Qwen25VL, monkeypatch):
    """As in transformers 5.3 to 5.5: rows repeated over all steps before the next row."""
    rope, model = tiny_model[0].model.get_rope_index, tiny_model[0].model

    def mixed(ids: torch.Tensor, **given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        positions, delta = rope(ids, **given)
        visual = ids[0] == tiny_model[0].config.video_token_id
        positions[1, 0, visual] = positions[1, 0, visual].sort().values
        return positions, delta

    mixed.__signature__ = inspect.signature(rope)
    monkeypatch.setattr(model, "get_rope_index", mixed)
    with pytest.raises(ValueError, match="use transformers"):
        family.positions(family.prompt(None, "").before, (3, 4), 1.0)


def test_the_prompt_is_the_unmodified_one(tiny_model, family: Qwen25VL):
    model, processor = tiny_model
    given = unmodified.inputs(model, processor, unmodified.film(2), "What is <|vision_end|> é?", 1.0)
    before, after = family.prompt(None, "What is <|vision_end|> é?")
    ids = given["input_ids"][0]
    video = ids == model.config.video_token_id
    assert torch.equal(torch.cat([before, after]), ids[~video])
    assert torch.equal(before, ids[: int(video.nonzero()[0])])


def test_a_question_with_a_video_in_it_is_refused(family: Qwen25VL):
    with pytest.raises(ValueError, match="question"):
        family.prompt(None, "What is <|video_pad|>?")


def test_features_are_those_of_the_tower(tiny_model, family: Qwen25VL):
    model, processor = tiny_model
    frames = unmodified.film(6)
    given = unmodified.inputs(model, processor, frames, "", 1.0)
    x = family.features(*family.patches(frames))
    with torch.no_grad():
        output = model.model.visual(given["pixel_values_videos"], grid_thw=given["video_grid_thw"])
    assert x.shape == (3, 3, 4, 64)
    assert torch.equal(x.flatten(0, 2), output.pooler_output)


def test_frame_processor_interleaves_the_frames_of_a_step():
    """Against patches cut by hand from frames that need no resizing."""
    words = tiny.tokenizer()
    images = pil_image_processor()(size=dict(tiny.PIXELS), image_mean=[0.0] * 3, image_std=[1 / 255] * 3)
    frames = unmodified.film(4)
    patches, grid = FrameProcessor(words, images, "").patches(frames)
    assert grid.tolist() == [[2, 6, 8]]
    video = torch.from_numpy(frames).view(2, 2, 3, 2, 14, 4, 2, 14, 3)  # t, slot, row, 2, y, column, 2, x, channel
    expected = video.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(96, -1)
    torch.testing.assert_close(patches, expected.float(), atol=1e-2, rtol=0)


@pytest.mark.skipif(not unmodified.HAVE_TORCHVISION, reason="torchvision is not installed")
@pytest.mark.parametrize(("size", "worst", "typical"), [((84, 112), 1e-5, 1e-6), ((93, 131), 0.05, 0.01)])
def test_frame_processor_agrees_with_the_video_processor(size: tuple[int, int], worst: float, typical: float):
    """Exactly where nothing is resized; PIL's and torchvision's bicubic differ by a few of 255 levels."""
    from transformers import Qwen2VLVideoProcessor

    images = pil_image_processor()(size=dict(tiny.PIXELS))
    frames = unmodified.film(4, (182, 266))[:, : size[0], : size[1]].copy()
    smooth = np.cumsum(np.cumsum(frames.astype(np.int64) % 3, axis=1), axis=2)
    frames = (255 * smooth / smooth.max()).astype(np.uint8)
    ours = FrameProcessor(tiny.tokenizer(), images, "").patches(frames)
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
    videos = Qwen2VLVideoProcessor(size=dict(tiny.PIXELS))
    theirs = videos(videos=[clip], return_tensors="pt", do_sample_frames=False)
    assert torch.equal(ours[1], theirs["video_grid_thw"])
    error = (ours[0] - theirs["pixel_values_videos"]).abs()
    assert error.max() < worst
    assert error.mean() < typical


def test_features_tell_patches_apart():
    """The tiny model at the paper's operating point: what is still goes, what moves stays."""
    family = Qwen25VL(*unmodified.build())
    x = family.features(*family.patches(unmodified.film(16, (168, 224))))
    unit = torch.nn.functional.normalize(x, dim=-1)
    unlike = (unit[0].flatten(0, 1) @ unit[0].flatten(0, 1).T)[~torch.eye(48, dtype=torch.bool)]
    assert unlike.median() < 0.3
    result = prune(x, PruneConfig(spatial_threshold=None))
    still = result.temporal[1:, 3:]
    assert still.min() > 0.95
    assert not result.keep[1:, 3:].any()
    assert 7 <= result.counts[1:].sum() <= 21


def test_the_same_seed_gives_the_same_model():
    ours, others, more = (unmodified.build(seed)[0].state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(ours[name], others[name]) for name in ours)
    assert any(not torch.equal(ours[name], more[name]) for name in ours)


def test_load_gives_the_saved_model_and_processor(tiny_model, tmp_path: Path):
    model, processor = tiny_model
    model.save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    if isinstance(processor, FrameProcessor):
        processor.image_processor.save_pretrained(tmp_path)
    else:
        processor.save_pretrained(tmp_path)
    again, loaded = models.load(tmp_path, dtype=torch.float32)
    frames = unmodified.film(2, (60, 90))
    ours, theirs = Qwen25VL(model, processor), Qwen25VL(again, loaded)
    assert torch.equal(ours.prompt(None, "Who?").after, theirs.prompt(None, "Who?").after)
    assert torch.equal(ours.features(*ours.patches(frames)), theirs.features(*theirs.patches(frames)))
    assert not again.training


def test_frame_processor_reads_a_checkpoint_of_before_v5(tmp_path: Path):
    """As Qwen2.5-VL's own on the hub: one preprocessor_config.json for both, with min_pixels and max_pixels."""
    words = tiny.tokenizer()
    words.chat_template = None
    words.save_pretrained(tmp_path)
    limits = {"min_pixels": 4 * 28 * 28, "max_pixels": 16 * 28 * 28, "patch_size": 14, "merge_size": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(limits))
    with pytest.raises(OSError, match="no chat template"):
        FrameProcessor.from_pretrained(str(tmp_path))
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": tiny.CHAT_TEMPLATE}))
    processor = FrameProcessor.from_pretrained(str(tmp_path))
    assert processor.chat_template == tiny.CHAT_TEMPLATE
    assert processor.patches(unmodified.film(2, (280, 280)))[1].tolist() == [[1, 8, 8]]
    assert processor.patches(unmodified.film(2, (56, 56))[:, :42, :42])[1].tolist() == [[1, 4, 4]]


def test_a_missing_model_is_one_line(tmp_path: Path):
    with pytest.raises(OSError, match="nowhere") as caught:
        models.load(tmp_path / "nowhere")
    assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match="cannot be loaded") as caught:
        models.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_unknown_family_lists_the_known(tmp_path: Path):
    with pytest.raises(ValueError, match="qwen2_5_vl"):
        models.adapter(SimpleNamespace(config=SimpleNamespace(model_type="gpt2")))
    with pytest.raises(ValueError, match="qwen2_5_vl"):
        models.adapter(object())
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="qwen2_5_vl"):
        models.load(tmp_path)


def test_a_processor_that_lacks_something_is_refused(tiny_model):
    with pytest.raises(TypeError, match="processor"):
        Qwen25VL(tiny_model[0], object())
