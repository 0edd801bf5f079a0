"""The loss and what it is of, what is drawn, what is saved."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import unmodified

import streamprune_triton as sp
from streamprune_triton import models
from streamprune_triton.models.processor import FrameProcessor
from streamprune_triton.shapes import model as small
from streamprune_triton.training import (
    Drawn,
    Learner,
    Sample,
    Shapes,
    add_lora,
    carriers_only,
    hold_in_bf16,
    merged,
    save,
)

peft = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
SOME = sp.PruneConfig(temporal_threshold=0.9, spatial_threshold=0.6)
STILL = sp.PruneConfig(temporal_threshold=0.8, spatial_threshold=0.8)  # for the small model's features


def sample() -> Sample:
    return Sample(unmodified.film(6), "What moves?", "a block", 2.0)


@pytest.fixture
def random_numbers():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@peft
def test_the_loss_falls_from_the_shipped_weights(random_numbers):
    model, processor = small.load(small.PLAIN)
    learner = Learner(add_lora(model, rank=8, alpha=16), processor, carriers_only(STILL)).train()
    learner.learn(tower=True)
    samples = [Shapes(3, seed=5, steps=3)[n] for n in range(3)]
    optimizer = torch.optim.AdamW([each for each in learner.parameters() if each.requires_grad], lr=5e-3)
    losses = []
    for _ in range(8):
        loss = learner(samples)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.5
    assert losses[-1] < losses[0] / 2


def test_an_answer_is_right_where_a_session_gives_it():
    model, processor = small.load()
    learner, memory = Learner(model, processor, STILL).eval(), sp.Memory("carriers")
    samples = [Shapes(12, seed=1, steps=4)[n] for n in range(12)]
    with torch.no_grad():
        right = torch.cat([learner([each])["right"] for each in samples]).tolist()
    for told, ours in zip(samples, right, strict=True):
        session = sp.StreamingSession(model, processor, STILL, memory, fps=told.fps)
        session.append(told.frames)
        assert (session.ask(told.question, max_new_tokens=4, do_sample=False) == told.answer) == ours
    assert set(right) == {False, True}
    assert learner.accuracy(samples) == sum(right) / len(right)


def test_the_loss_is_the_mean_of_the_samples_own():
    learner = Learner(*unmodified.build(0, "qwen2_5_vl"), SOME)
    samples = [sample(), Sample(unmodified.film(2), "Who?", "nobody at all")]
    with torch.no_grad():
        together, each = learner(samples), [learner([one]) for one in samples]
        logits, labels = learner.logits(samples[1])
    torch.testing.assert_close(together["loss"], (each[0]["loss"] + each[1]["loss"]) / 2)
    by_hand = -logits.log_softmax(-1)[torch.arange(len(labels)), labels].mean()
    torch.testing.assert_close(each[1]["loss"], by_hand)
    assert together["right"].tolist() == [bool(one["right"]) for one in each]


# Pruning that is drawn


def test_budgets_and_thresholds_are_drawn_within_their_bounds(random_numbers):
    budget, threshold = Drawn.parse("budget:0.1,0.6"), Drawn.parse("threshold:-0.2,0.9")
    kept = {budget.config(SOME, 20).keep_tokens for _ in range(200)}
    assert kept == set(range(2, 13))
    drawn = [threshold.config(SOME, 20) for _ in range(200)]
    values = [each.temporal_threshold or 0.0 for each in drawn]
    assert -0.2 <= min(values) < 0 < 0.7 < max(values) <= 0.9
    assert {each.spatial_threshold for each in drawn} == {SOME.spatial_threshold}


def test_pruning_is_drawn_in_training_alone(random_numbers):
    learner = Learner(*unmodified.build(0, "qwen2_5_vl"), SOME, augment=Drawn("budget", 0.2, 1.0))
    with torch.no_grad():
        training = {float(learner.train()([sample()])["loss"]) for _ in range(4)}
        evaluated = {float(learner.eval()([sample()])["loss"]) for _ in range(3)}
        plain = float(Learner(learner.model, learner.compose.adapter.processor, SOME)([sample()])["loss"])
        accuracy = learner.train().accuracy([sample()])
    assert len(training) == 4
    assert evaluated == {plain}
    assert accuracy in (0.0, 1.0)
    assert learner.training


@pytest.mark.parametrize("text", ["budget", "budget:1", "budget:-0.1,1", "budget:0.9,0.1", "dtd:0,1", "threshold:x,1"])
def test_bad_draws(text: str):
    with pytest.raises(ValueError, match=r"pruning must be drawn|kind must be one of|low and high must rise"):
        Drawn.parse(text)


def test_wrong_types_are_named():
    model, processor = unmodified.build(0, "qwen2_5_vl")
    with pytest.raises(TypeError, match="config must be a PruneConfig, got dict"):
        Learner(model, processor, {})
    with pytest.raises(TypeError, match="augment must be a Drawn or None, got str"):
        Learner(model, processor, SOME, augment="budget:0,1")


def test_no_sample_and_no_sample_at_all():
    learner = Learner(*unmodified.build(0, "qwen2_5_vl"), SOME)
    for call in (learner, learner.accuracy):
        with pytest.raises(ValueError, match="samples must be at least one, got none"):
            call([])
    with pytest.raises(TypeError, match="sample must be a Sample, got dict"):
        learner([{"question": "What?"}])
    with pytest.raises(TypeError, match="memory must be a Memory or None, got str"):
        Learner(*unmodified.build(0, "qwen2_5_vl"), SOME, "carriers")


def test_carriers_only_keeps_nothing_whatever_else_is_asked_for():
    x = torch.randn(5, 3, 3, 8)
    for config in (
        SOME,
        sp.PruneConfig(keyframe_interval=2),
        sp.PruneConfig(max_tokens=3),
        sp.PruneConfig(keep_tokens=3, scope="clip"),
    ):
        result = sp.prune(x, carriers_only(config))
        assert len(result.tokens) == 0
        torch.testing.assert_close(result.carriers, x.mean((1, 2)))


# Weights


@peft
def test_the_state_is_what_learns():
    model, processor = unmodified.build(0, "qwen2_5_vl")
    learner = Learner(add_lora(model, rank=2), processor, SOME)
    sizes = []
    for tower in (True, False):
        learner.learn(tower)
        state = {name: value.clone() for name, value in learner.state_dict().items()}
        assert all("lora_" in name for name in state)
        sizes.append(len(state))
        first = next(iter(state))
        with torch.no_grad():
            dict(learner.named_parameters())[first].add_(1)
        learner.load_state_dict(state)
        assert torch.equal(learner.state_dict()[first], state[first])
    assert sizes[0] > sizes[1] > 0
    for wrong in ({}, {**state, "more": state[first]}, {**state, first: state[first][:1]}):
        with pytest.raises(ValueError, match="state_dict must hold the weights that learn"):
            learner.load_state_dict(wrong)


def test_the_state_is_what_learns_in_another_module_too():
    model, processor = unmodified.build(0, "qwen2_5_vl")
    learner = Learner(model, processor, SOME)
    learner.learn(tower=False)
    whole = torch.nn.ModuleDict({"head": torch.nn.Linear(2, 2), "learner": learner})
    state = whole.state_dict()
    assert {name for name in state if name.startswith("learner.")} == {
        f"learner.{name}" for name in learner.state_dict()
    }
    assert {"head.weight", "head.bias"} <= set(state)
    assert 0 < len(learner.state_dict()) < len(list(learner.parameters()))


@peft
def test_bf16_holds_what_is_frozen_and_learns_in_float32():
    model, processor = unmodified.build(0, "qwen3_vl")
    learner = Learner(add_lora(model, rank=2), processor, SOME)
    exact = learner([sample()])["loss"]
    learner.learn(tower=True)
    hold_in_bf16(learner.model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = learner([sample()])["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, atol=0.2, rtol=0.1)
    kinds = {weight.requires_grad: weight.dtype for weight in learner.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    assert all(
        each.grad is not None for name, each in learner.named_parameters() if "layers.0.self_attn.q_proj.lora_B" in name
    )


@peft
@pytest.mark.parametrize("family", ["qwen3_vl", "llava_onevision"])
def test_merged_weights_are_saved_as_a_checkpoint(family: str, tmp_path: Path):
    model, processor = unmodified.build(0, family)
    source = checkpoint(model, processor, tmp_path / "source")
    lora = add_lora(model, rank=2)
    with torch.no_grad():
        for name, weight in lora.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.02)
        expected, _ = Learner(lora, processor, SOME).logits(sample())
        save(merged(lora), processor, tmp_path / "merged", str(source))
        again, _ = Learner(*models.load(tmp_path / "merged", dtype=torch.float32), SOME).logits(sample())
        before, _ = Learner(*models.load(source, dtype=torch.float32), SOME).logits(sample())
    torch.testing.assert_close(again, expected, atol=1e-3, rtol=0)
    assert (before - expected).abs().max() > 0.1


def checkpoint(model: Any, processor: Any, folder: Path) -> Path:
    """A folder that `models.load` reads."""
    model.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    if isinstance(processor, FrameProcessor):
        given = processor.image_processor.to_dict().items()
        settings = {name: value for name, value in given if name != "image_processor_type"}
        (folder / "video_preprocessor_config.json").write_text(json.dumps(settings))
    else:
        processor.save_pretrained(folder)
    return folder


def test_without_peft_the_cure_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="pip install peft accelerate"):
        add_lora(unmodified.build(0, "qwen2_5_vl")[0])
