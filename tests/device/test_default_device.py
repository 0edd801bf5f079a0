"""Under `torch.set_default_device`, which moves whatever is made without a device: nothing changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import unmodified
from elsewhere import NAME, sent
from streams import GREEDY, SOME, WHAT, fed

import streamprune_triton as sp

FRAMES = unmodified.film(8)
FOUR = pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl"], indirect=True)
MEMORY = sp.Memory("hybrid", max_carriers=2, recent_frames=1, positions="compact")


@pytest.fixture
def moved(away: Any) -> Iterator[Any]:
    """The model goes to the device, and becomes the default."""
    yield lambda: (away(), torch.set_default_device(NAME))
    torch.set_default_device("cpu")


@FOUR
def test_a_session(family: tuple[Any, Any], moved: Any, tmp_path: Path) -> None:
    def talk() -> list[str]:
        session = fed(family, FRAMES[:5], 2, SOME, MEMORY)
        session.save(tmp_path / "past.safetensors")
        session.load(tmp_path / "past.safetensors")
        said = [session.ask(WHAT, remember=True, **GREEDY)]
        session.skip(2)
        session.append(torch.from_numpy(FRAMES[5:]))
        fork = session.fork()
        return [*said, "".join(session.stream(WHAT, **GREEDY)), fork.ask(WHAT, do_sample=True, top_k=1)]

    expected = talk()
    moved()
    assert talk() == expected


@FOUR
def test_generate(family: tuple[Any, Any], moved: Any) -> None:
    model, _ = family
    given = unmodified.inputs(*family, FRAMES, WHAT, 2.0)
    with sp.pruned(model, SOME):
        expected = model.generate(**given, **GREEDY)
    moved()
    with sp.pruned(model, SOME):
        found = model.generate(**sent(given), **GREEDY)
    assert torch.equal(found.cpu(), expected)


@FOUR
def test_a_step_of_training(family: tuple[Any, Any], moved: Any) -> None:
    sample = sp.training.Sample(FRAMES[:6], WHAT, "A box.", 1.0)

    def loss() -> torch.Tensor:
        return sp.training.Learner(*family, SOME)([sample])["loss"].detach().cpu()

    expected = loss()
    moved()
    torch.testing.assert_close(loss(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("device", ["cpu", NAME])
def test_the_pruning_step(device: str) -> None:
    x = torch.randn(3, 4, 6, 16, generator=torch.Generator().manual_seed(0))
    config = sp.PruneConfig(temporal_threshold=0.1, spatial_threshold=0.1, max_tokens=5, keyframe_interval=2)
    expected = sp.prune(x, config)
    torch.set_default_device(NAME)
    try:
        found = sp.prune(x.to(device), config)
        padded = sp.prune_padded(x.to(device), config, capacity=20, state=found.state)
    finally:
        torch.set_default_device("cpu")
    assert {found.tokens.device.type, padded.tokens.device.type} == {device}
    assert torch.equal(found.tokens.cpu(), expected.tokens)
