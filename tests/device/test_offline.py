"""`pruned` and training on a device: tokens and gradients of the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import unmodified
from elsewhere import sent
from streams import SOME, WHAT

import streamprune_triton as sp


@pytest.fixture
def given(family: tuple[Any, Any]) -> dict[str, Any]:
    return unmodified.inputs(*family, unmodified.film(8), WHAT, 2.0)


def test_generate(family: tuple[Any, Any], given: dict[str, Any], away: Any) -> None:
    model, _ = family
    with sp.pruned(model, SOME) as expected:
        tokens = model.generate(**given, max_new_tokens=6, do_sample=False)
    away()
    with sp.pruned(model, SOME) as found:
        far = model.generate(**sent(given), max_new_tokens=6, do_sample=False)
    assert torch.equal(far.cpu(), tokens)
    assert found.drop_ratio == expected.drop_ratio > 0


def test_gradients(family: tuple[Any, Any], given: dict[str, Any], away: Any) -> None:
    model, _ = family
    expected = gradients(model, given)
    away()
    found = gradients(model, sent(given))
    assert expected.keys() == found.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient.cpu(), expected[name], atol=1e-5, rtol=1e-4)


def gradients(model: Any, given: dict[str, Any]) -> dict[str, torch.Tensor]:
    with sp.pruned(model, SOME):
        model(**given, labels=given["input_ids"]).loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("alone", [False, True], ids=["behind tokens", "carriers alone"])
def test_a_step_of_training(family: tuple[Any, Any], away: Any, alone: bool) -> None:
    if family[0].config.model_type in unmodified.UNSTREAMED:
        pytest.skip("no session runs on the family, so it is not trained with carriers")
    sample = sp.training.Sample(unmodified.film(6), WHAT, "A box.", 1.0)

    def loss() -> torch.Tensor:
        return (
            sp.training.Learner(*family, sp.training.carriers_only(SOME) if alone else SOME)([sample])["loss"]
            .detach()
            .cpu()
        )

    expected = loss()
    away()
    torch.testing.assert_close(loss(), expected, atol=1e-5, rtol=0)
