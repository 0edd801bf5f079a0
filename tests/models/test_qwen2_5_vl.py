"""What only the Qwen-VL adapters have: positions that tell time, patches of several frames, pixels by budget."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import unmodified

from streamprune_triton import PruneConfig, models, prune
from streamprune_triton.models.positions import Cursor
from streamprune_triton.models.processor import FrameProcessor, patch_images
from streamprune_triton.models.qwen2_5_vl import Qwen25VL
from streamprune_triton.models.qwen3_vl import Qwen3VL
from streamprune_triton.models.tiny import qwen2, qwen3


@pytest.fixture(scope="module")
def tiny_model():
    return unmodified.build()


@pytest.fixture(scope="module")
def family(tiny_model) -> Qwen25VL:
    return Qwen25VL(*tiny_model)


def before(family: Qwen25VL) -> torch.Tensor:
    return family.text([{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Who?"}]}])[0]


def test_a_late_step_does_not_ask_about_the_grid_again(family: Qwen25VL):
    """What one step costs: the model is asked about T x 1 x 1 tokens, each time for twice as many as are needed."""
    layout, cursor = family.layout(before(family), (4, 5), 1.0, False), Cursor(9)
    asked: list[tuple[int, int, int]] = []
    ask = layout._ask
    layout._ask = lambda t, h, w, seconds: asked.append((t, h, w)) or ask(t, h, w, seconds)
    for _ in range(500):
        cursor = layout.place(cursor, 0, 0).next
        layout.end(cursor)
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
        family.layout(before(family), (3, 4), 1.0, False)


def test_frame_processor_interleaves_the_frames_of_a_step():
    """Against patches cut by hand from frames that need no resizing."""
    images = patch_images({**qwen2.VIDEO, "image_mean": [0.0] * 3, "image_std": [1 / 255] * 3})
    frames = unmodified.film(4)
    patches, grid = FrameProcessor(qwen2.tokenizer(), images, "").patches(frames)
    assert grid.tolist() == [[2, 6, 8]]
    video = torch.from_numpy(frames).view(2, 2, 3, 2, 14, 4, 2, 14, 3)  # t, slot, row, 2, y, column, 2, x, channel
    expected = video.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(96, -1)
    torch.testing.assert_close(patches, expected.float(), atol=1e-2, rtol=0)


def test_frame_processor_makes_no_inputs_and_says_what_does(monkeypatch):
    monkeypatch.setattr("transformers.utils.is_torchvision_available", lambda: False)
    processor = FrameProcessor(qwen2.tokenizer(), None, qwen2.TEMPLATE)
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What moves?"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text == processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text.endswith("What moves?<|im_end|>\n<|im_start|>assistant\n")
    for call in (
        lambda: processor(text=[text], videos=[np.zeros((2, 28, 28, 3), np.uint8)], return_tensors="pt"),
        lambda: processor.apply_chat_template(messages, tokenize=True, return_dict=True),
    ):
        with pytest.raises(ImportError, match="need torchvision: pip install torchvision") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_the_tiny_model_at_the_papers_operating_point(family: Qwen25VL):
    """What is still goes, what moves stays."""
    x = family.features(family.pixels(unmodified.film(16, (168, 224)))).x
    result = prune(x, PruneConfig(spatial_threshold=None))
    still = result.temporal[1:, 3:]
    assert still.min() > 0.95
    assert not result.keep[1:, 3:].any()
    assert 7 <= result.counts[1:].sum() <= 21


def test_frame_processor_reads_a_checkpoint_of_before_v5(tmp_path: Path):
    """As Qwen2.5-VL's own on the hub: one preprocessor_config.json for both, with min_pixels and max_pixels."""
    words = qwen2.tokenizer()
    words.chat_template = None
    words.save_pretrained(tmp_path)
    limits = {"min_pixels": 4 * 28 * 28, "max_pixels": 16 * 28 * 28, "patch_size": 14, "merge_size": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(limits))
    with pytest.raises(OSError, match="no chat template"):
        FrameProcessor.from_pretrained(str(tmp_path), patch_images)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": qwen2.TEMPLATE}))
    processor = FrameProcessor.from_pretrained(str(tmp_path), patch_images)
    assert processor.chat_template == qwen2.TEMPLATE
    assert processor.patches(unmodified.film(2, (280, 280)))[1].tolist() == [[1, 8, 8]]
    assert processor.patches(unmodified.film(2, (56, 56))[:, :42, :42])[1].tolist() == [[1, 4, 4]]


@pytest.mark.skipif(not unmodified.HAVE_TORCHVISION, reason="torchvision is not installed")
@pytest.mark.parametrize("limits", [(8, 2**20), (64, 2**20), (8, 20)])
def test_a_step_of_qwen3_vl_is_sized_as_a_clip_of_its_own(limits: tuple[int, int]):
    from transformers import Qwen3VLVideoProcessor

    size = dict(zip(("shortest_edge", "longest_edge"), (n * 28 * 28 for n in limits), strict=True))
    video = {**qwen3.VIDEO, "size": size}
    frames = unmodified.film(2, (84, 112))
    _, grid = FrameProcessor(qwen2.tokenizer(), Qwen3VL.frame_images(video), "").patches(frames)
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
    theirs = Qwen3VLVideoProcessor(**video)(videos=[clip], return_tensors="pt", do_sample_frames=False)
    assert torch.equal(grid, theirs["video_grid_thw"])


def test_a_missing_model_is_one_line(tmp_path: Path):
    with pytest.raises(OSError, match="nowhere") as caught:
        models.load(tmp_path / "nowhere")
    assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match="cannot be loaded") as caught:
        models.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", unmodified.PATCHED)
def test_frames_that_need_no_resizing_are_cut_as_the_image_processor_does(family: str):
    from streamprune_triton import models

    model, processor = unmodified.build(0, family)
    images = models.adapter(model).frame_images({})
    ours = FrameProcessor(processor.tokenizer, images, "")
    unit = images.patch_size * images.merge_size
    frames = np.random.default_rng(0).integers(0, 256, (4, 14 * unit, 12 * unit, 3), dtype=np.uint8)
    patches, grid = ours.patches(frames)
    expected, shape = ours._resized(frames)
    assert torch.equal(grid, shape)
    torch.testing.assert_close(patches, expected, atol=1e-6, rtol=0)
    small = frames[:, : unit + 3]
    torch.testing.assert_close(ours.patches(small)[0], ours._resized(small)[0], atol=0, rtol=0)


def test_a_shorter_table_of_times_never_takes_the_place_of_a_longer(family: Qwen25VL):
    """Sessions in threads share a layout: while one asks for later times, another may ask for still later ones."""
    layout = family.layout(before(family), (4, 5), 1.0, False)
    ask, meanwhile = layout._ask, []

    def slow(*given: object) -> torch.Tensor:
        layout._ask = ask
        meanwhile.append(layout.place(Cursor(0, 900), 0, 0))
        return ask(*given)

    layout._ask = slow
    early = layout.place(Cursor(0, 100), 0, 0)
    assert len(layout._times) > 900
    alone = family.layout(before(family), (4, 5), 1.0, False)
    for place, step in ((early, 100), (meanwhile[0], 900)):
        assert torch.equal(place.positions, alone.place(Cursor(0, step), 0, 0).positions)


def test_frames_that_cannot_be_written_are_read(family: Qwen25VL, recwarn: pytest.WarningsRecorder):
    """As np.asarray gives them of a picture."""
    frames = unmodified.film(4)
    expected, _ = family.pixels(frames)
    frames.flags.writeable = False
    assert torch.equal(family.pixels(frames)[0], expected)
    assert not recwarn.list
