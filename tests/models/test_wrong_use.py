"""What users get wrong most: each is told in one line, with the cure."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import unmodified
from streams import GREEDY, STREAMED, WHAT

import streamprune_triton as sp
from streamprune_triton.models import tiny
from streamprune_triton.streaming.frames import checked

FILM = unmodified.film(4)


@pytest.fixture(scope="module")
def families() -> dict[str, tuple[Any, Any]]:
    names = ("qwen2_5_vl", "llava_onevision", "llava_next_video", "internvl", "video_llama_3", "glm4v", "qwen3_vl")
    return {name: unmodified.build(0, name) for name in names}


class Wrapped(torch.nn.Module):
    """As peft.PeftModel, whose own `model` is something else."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.base_model = SimpleNamespace(model=model)
        self.model, self.config = self, model.config

    def get_base_model(self) -> Any:
        return self.base_model.model


def test_a_model_inside_of_peft(families):
    model, processor = families["qwen2_5_vl"]
    alone, inside = (sp.StreamingSession(each, processor) for each in (model, Wrapped(model)))
    assert alone.append(FILM) is not None
    assert inside.append(FILM) is not None
    assert inside.ask(WHAT, **GREEDY) == alone.ask(WHAT, **GREEDY)
    sp.StreamingSession.append_many([alone, inside], [FILM, FILM])  # they are of one model


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # which peft asks for
def test_lora_layers_stay_active():
    """What the second layer sees is not what it sees without them."""
    peft = pytest.importorskip("peft", reason="needs peft")
    model, processor = unmodified.build()
    lora = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False))
    session = sp.StreamingSession(lora.eval(), processor)
    session.append(FILM)
    kept = session._past.cache.layers[1].keys.clone()
    with lora.disable_adapter():
        plain = sp.StreamingSession(lora, processor)
        plain.append(FILM)
    assert not torch.allclose(kept, plain._past.cache.layers[1].keys, atol=1e-3)


def test_a_model_without_its_head(families):
    for model, processor in families.values():
        with pytest.raises(ValueError, match=r"^model must have a head \(\.\.\.ForConditionalGeneration\), got \w+$"):
            sp.StreamingSession(model.model, processor)


@pytest.mark.parametrize(
    ("model", "processor"),
    [
        ("qwen2_5_vl", "llava_onevision"),
        ("qwen2_5_vl", "internvl"),
        ("qwen2_5_vl", "video_llama_3"),
        ("llava_onevision", "qwen2_5_vl"),
        ("llava_next_video", "qwen2_5_vl"),
        ("video_llama_3", "qwen2_5_vl"),
        ("internvl", "qwen2_5_vl"),
        ("llava_onevision", "llava_next_video"),  # those from here on number their few special tokens alike
        ("llava_next_video", "llava_onevision"),
        ("llava_onevision", "video_llama_3"),
        ("video_llama_3", "llava_next_video"),
        ("glm4v", "qwen2_5_vl"),
        ("qwen3_vl", "qwen2_5_vl"),
    ],
)
def test_the_processor_of_another_family(families, model: str, processor: str):
    line = rf"^processor must be the model's, of {model}, got \w+ of {processor}: load both from one checkpoint, as "
    with pytest.raises(ValueError, match=line):
        sp.StreamingSession(families[model][0], families[processor][1])


@pytest.mark.parametrize("processor", ["internvl", "video_llama_3", "llava_onevision"])
def test_a_processor_of_ones_own_is_known_by_what_it_spells(families, processor: str):
    """Its class says nothing of a family."""
    model = families["qwen2_5_vl"][0]

    def own(kind: Any) -> SimpleNamespace:
        return SimpleNamespace(**vars(kind), apply_chat_template=kind.apply_chat_template)

    sp.StreamingSession(model, own(families["qwen2_5_vl"][1]))
    with pytest.raises(ValueError, match=r"^processor must be the model's, got SimpleNamespace, whose chat template"):
        sp.StreamingSession(model, own(families[processor][1]))


def test_every_familys_own_processor_is_taken():
    for name in STREAMED:
        sp.StreamingSession(*unmodified.build(0, name))
    with pytest.raises(ValueError, match="model must not tell a video's length"):
        sp.StreamingSession(*tiny.smolvlm())


@pytest.mark.parametrize("fps", [Fraction(30000, 1001), np.float32(2), np.int64(2)])
def test_rates_of_any_kind_of_number(families, fps: Any):
    session = sp.StreamingSession(*families["qwen2_5_vl"], fps=fps)
    assert type(session.fps) is float
    assert session.fps == float(fps)
    for wrong, error in ((True, TypeError), (2j, TypeError), ("2", TypeError), (Fraction(0), ValueError)):
        with pytest.raises(error, match=r"^fps must be"):
            sp.StreamingSession(*families["qwen2_5_vl"], fps=wrong)  # type: ignore[arg-type]


def test_counts_of_any_kind_of_integer(families):
    memory = sp.Memory("hybrid", recent_frames=np.int64(4), max_tokens=np.int32(9))  # type: ignore[arg-type]
    assert memory == sp.Memory("hybrid", recent_frames=4, max_tokens=9)
    assert type(memory.recent_frames) is type(memory.max_tokens) is int
    session = sp.StreamingSession(*families["qwen2_5_vl"])
    session.append(FILM)
    session.skip(np.int64(2))  # type: ignore[arg-type]
    assert type(session.stats.frames_skipped) is int
    for wrong, error in ((True, TypeError), (2.0, TypeError), (-1, ValueError)):
        with pytest.raises(error, match=r"^frames must be"):
            session.skip(wrong)  # type: ignore[arg-type]
    assert session.stats.frames_skipped == 2


CLIP = np.random.default_rng(0).integers(0, 255, (8, 6, 7, 3), dtype=np.uint8)
CURED = {
    "CHW": CLIP.transpose(0, 3, 1, 2),
    "CHW tensor": torch.from_numpy(CLIP).permute(0, 3, 1, 2),
    "one CHW": CLIP[0].transpose(2, 0, 1),
    "one": CLIP[0],
    "RGBA": np.concatenate([CLIP, CLIP[..., :1]], -1),
    "one RGBA": np.concatenate([CLIP, CLIP[..., :1]], -1)[0],
    "gray": CLIP[..., 0],
    "gray tensor": torch.from_numpy(CLIP[..., 0]),
    "gray, one channel": CLIP[..., :1],
    "floats": CLIP.astype(np.float32) / 255,
    "floats tensor": torch.from_numpy(CLIP).float() / 255,
    "nested lists": [CLIP[0].tolist()],
    "list of CHW": [CLIP[0].transpose(2, 0, 1)],
    "list of gray": [CLIP[0, ..., 0]],
    "generator": (image for image in CLIP),
}


@pytest.mark.parametrize("name", CURED)
def test_the_cure_that_is_told_for_frames_is_one(name: str):
    given = CURED[name]
    with pytest.raises((TypeError, ValueError), match=r"^frames(\[0\])? must be|^frames(\[0\])? must have") as caught:
        checked(given, None)
    cure = str(caught.value).split(": ", 1)[1].split("; ")[0].split("give ")[-1].removeprefix("one frame is ")
    cured = eval(cure, {"np": np, "torch": torch, "frames": given})
    array = checked([cured] if "frames[0]" in cure else cured, None)
    assert array.shape[1:] == (6, 7, 3)
    assert "\n" not in str(caught.value)


def test_pictures_of_pillow():
    image = pytest.importorskip("PIL.Image", reason="needs Pillow").fromarray(CLIP[0])
    with pytest.raises(TypeError, match=r"^frames\[0\] must be .* got Image: give np\.asarray\(frames\[0\]\)$"):
        checked([image], None)
    assert checked([np.asarray(image)], None).shape == (1, 6, 7, 3)


def test_what_stands_in_for_a_processor_says_what_is_true(monkeypatch: pytest.MonkeyPatch):
    processor = tiny.smolvlm()[1]
    for there, message in ((False, "pip install torchvision"), (True, r"AutoProcessor .* num2words")):
        monkeypatch.setattr("transformers.utils.is_torchvision_available", lambda there=there: there)
        with pytest.raises(ImportError, match=message) as caught:
            processor(text="x")
        assert ("pip install torchvision" in str(caught.value)) is not there
