"""SmolVLM's videos in a prompt, which only their text tells from images."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import unmodified
from streams import NOTHING, SOME

import streamprune_triton as sp
from streamprune_triton import models

FAKE = "<fake_token_around_image>"
IMAGE = f"{FAKE}<global-img>{'<image>' * 16}{FAKE}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    model, processor = unmodified.build(0, "smolvlm")
    model.name_or_path = str(tmp_path_factory.mktemp("smolvlm"))
    processor.tokenizer.save_pretrained(model.name_or_path)
    return model, processor


def found(tiny: tuple[Any, Any], text: str) -> list[torch.Tensor]:
    """The grids in a text."""
    model, processor = tiny
    ids = torch.tensor([processor.tokenizer(text)["input_ids"]])
    (grids,) = models.adapter(model)(model, processor).grids(ids, {})
    return grids


def video(frames: int, fps: float = 1.0) -> str:
    return unmodified.spelled("smolvlm", "<video>", frames, 16, fps)


@pytest.mark.parametrize("fps", [0.3, 29.97, 1 / 90])
def test_videos_beside_images_and_each_other(tiny, fps: float):
    text = (
        IMAGE + video(3, fps) + video(2, fps) + "What?" + IMAGE + "\nFrame from 00:01:" + IMAGE + video(1, fps) + IMAGE
    )
    ids = torch.tensor(tiny[1].tokenizer(text)["input_ids"])
    at = (ids == tiny[0].config.image_token_id).nonzero().view(-1, 4, 4)
    grids = found(tiny, text)
    assert [len(grid) for grid in grids] == [3, 2, 1]
    assert torch.equal(torch.cat(grids), at[[1, 2, 3, 4, 5, 8]])


def test_an_image_in_rows_and_columns_is_no_video(tiny):
    rows = "".join(f"{FAKE}<row_1_col_{n}>{'<image>' * 16}" for n in (1, 2))
    assert found(tiny, f"video.\n{rows}\n\n{IMAGE}") == []


def test_an_image_behind_a_video_stays_whole(tiny):
    model, processor = tiny
    frames = np.concatenate([unmodified.film(6, (112, 112)), unmodified.film(1, (112, 112), 9)])
    given = {
        **unmodified.read(model, processor, [f"{video(6)}And {IMAGE}?"]),
        "pixel_values": processor.pictures(frames)[None],
    }
    with torch.no_grad(), sp.pruned(model, NOTHING):
        same = model(**given).logits
    with torch.no_grad():
        torch.testing.assert_close(same, model(**given).logits, atol=1e-4, rtol=0)
        with sp.pruned(model, SOME) as report:
            cache = model(**given, use_cache=True).past_key_values
    (keep,) = report.keep
    assert keep.shape == (6, 4, 4)
    assert 0 < int(keep.sum()) < keep.numel()
    assert cache.get_seq_length() == given["input_ids"].shape[1] - int((~keep).sum())


def test_no_session_runs_on_it(tiny):
    with pytest.raises(ValueError, match="model must not tell a video's length before its frames, got smolvlm"):
        sp.StreamingSession(*tiny, NOTHING)


@pytest.mark.parametrize("frames", [2, 7])
def test_the_processor_spells_videos_as_these_tests_do(tiny, frames: int):
    pytest.importorskip("num2words", reason="SmolVLM's processor needs num2words")
    if not unmodified.HAVE_TORCHVISION:
        pytest.skip("torchvision is not installed")
    from transformers import SmolVLMProcessor

    metadata = SimpleNamespace(fps=3.0, timestamps=[n / 3 for n in range(frames)], duration=None)
    clip = {"pixel_values": torch.empty(1, frames, 3, 1, 1), "video_metadata": [metadata]}
    whole = SmolVLMProcessor.__new__(SmolVLMProcessor)
    whole.image_seq_len, whole.image_token = 16, "<image>"
    whole.fake_image_token, whole.global_image_token = FAKE, "<global-img>"
    if not hasattr(whole, "replace_video_token"):
        pytest.skip("this release spells videos inside of its call")
    assert whole.replace_video_token(clip, 0) == video(frames, 3.0)
