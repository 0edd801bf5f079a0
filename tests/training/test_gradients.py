"""Who learns in which stage, and that nothing of it changes what a session does."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
import unmodified

import streamprune_triton as sp
from streamprune_triton.models import tiny
from streamprune_triton.training import Learner, Sample, add_lora, carriers_only, checkpoint_activations

peft = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
SOME = sp.PruneConfig(temporal_threshold=0.9, spatial_threshold=0.6)
FAMILIES = [name for name in tiny.NAMES if name not in unmodified.UNSTREAMED]


def sample() -> Sample:
    return Sample(unmodified.film(6), "What moves?", "a block", 2.0)


def parts(learner: Learner) -> tuple[set[str], set[str]]:
    """Names of the weights that have a gradient other than zero: of the language model and its head, of the rest."""
    adapter = learner.compose.adapter
    own = (adapter.language_model, adapter.model.get_output_embeddings())
    inside = {id(weight) for part in own for weight in part.parameters()}
    found: tuple[set[str], set[str]] = (set(), set())
    for name, weight in learner.named_parameters():
        if weight.grad is not None and weight.grad.abs().max() > 0:
            assert torch.isfinite(weight.grad).all()
            found[id(weight) not in inside].add(name)
    return found


@peft
@pytest.mark.parametrize("family", FAMILIES)
def test_tower_and_language_model_learn_in_stage_one_and_the_language_model_in_stage_two(family: str):
    model, processor = unmodified.build(0, family)
    lora = add_lora(model, rank=2, alpha=4)
    with torch.no_grad():  # LoRA's second factor is zero at first, and so the first one's gradient
        for name, weight in lora.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1)
    for number, config in ((1, carriers_only(SOME)), (2, SOME)):
        lora.zero_grad()
        learner = Learner(lora, processor, config)
        learner.learn(tower=number == 1)
        names = set(learner.state_dict())
        assert all("lora_" in name for name in names)
        learner([sample()])["loss"].backward()
        language, tower = parts(learner)
        assert any("q_proj" in name or "qkv" in name for name in language)
        assert bool(tower) == (number == 1)
        assert language | tower <= names


@pytest.mark.parametrize("family", FAMILIES)
def test_without_lora_all_of_the_language_model_learns(family: str):
    model, processor = unmodified.build(0, family)
    learner = Learner(model, processor, SOME)
    learner.learn(tower=False)
    learner([sample()])["loss"].backward()
    language, tower = parts(learner)
    assert not tower
    assert language == set(learner.state_dict())
    assert any("embed_tokens" in name for name in language)


@pytest.mark.parametrize("family", ["qwen3_vl", "llava_onevision"])
def test_checkpointed_activations_give_the_same_gradients(family: str):
    gradients = []
    for again in (False, True):
        model, processor = unmodified.build(0, family)
        if again:
            checkpoint_activations(model)
        Learner(model, processor, SOME).train()([sample()])["loss"].backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
def test_a_session_of_a_model_in_training_has_no_gradients(family: str):
    model, processor = unmodified.build(0, family)
    Learner(model, processor, SOME)([sample()])["loss"].backward()
    session = sp.StreamingSession(model, processor, SOME)
    assert not session.append(unmodified.film(4)).tokens.requires_grad
    assert isinstance(session.ask("What moves?", max_new_tokens=2), str)
