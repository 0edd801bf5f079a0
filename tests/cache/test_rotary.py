"""Which axis drives a frequency, and by how much a shift turns it."""

from __future__ import annotations

import pytest
import torch
from decoders import ROPE, decoder

from streamprune_triton.cache import Rotary

AXES = {
    "llama": [0] * 8,
    "qwen2": [0] * 8,
    "qwen2_5_vl": [0, 0, 1, 1, 1, 2, 2, 2],
    "qwen3_vl": [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0],
}


def rotary_of(name: str, **more):
    model, _ = decoder(name, **more)
    return (model if hasattr(model, "rotary_emb") else model.model).rotary_emb


@pytest.mark.parametrize("name", AXES)
def test_axes(name):
    module = rotary_of(name)
    rotary = Rotary.of(module)
    assert rotary.axis.tolist() == AXES[name]
    assert rotary.axes == max(AXES[name]) + 1
    assert torch.equal(rotary.inv_freq, module.inv_freq)


def test_tables_of_a_long_shift_are_exact():
    rotary = Rotary.of(rotary_of("qwen3_vl"))
    shift = torch.tensor([[1_000_003, -5], [0, 7], [-999_999, 2]])
    cos, sin = rotary.tables(shift)
    angle = torch.stack([shift[a].double() * f for a, f in zip(rotary.axis, rotary.inv_freq.double(), strict=True)], 1)
    assert cos.shape == sin.shape == (2, 16)
    assert cos.dtype == sin.dtype == torch.float32
    assert torch.equal(cos, angle.cos().float())
    assert torch.equal(sin, angle.sin().float())


def test_yarns_attention_factor_is_not_applied_twice():
    scaled = ROPE | {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    module = rotary_of("llama", rope_parameters=scaled, max_position_embeddings=4096)
    assert module.attention_scaling > 1
    rotary = Rotary.of(module)
    cos, sin = rotary.tables(torch.arange(50)[None])
    assert torch.equal(rotary.inv_freq, module.inv_freq)
    torch.testing.assert_close(cos**2 + sin**2, torch.ones_like(cos))


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {
            "rope_type": "longrope",
            "factor": 4.0,
            "short_factor": [1.0] * 8,
            "long_factor": [2.0] * 8,
            "original_max_position_embeddings": 1024,
        },
    ],
    ids=lambda p: p["rope_type"],
)
def test_frequencies_that_change_with_the_length_are_refused(parameters):
    module = rotary_of("llama", rope_parameters=ROPE | parameters, max_position_embeddings=4096)
    with pytest.raises(ValueError, match=rf'positions="compact" is not available .*{parameters["rope_type"]}'):
        Rotary.of(module)


def test_what_has_no_rotary_is_refused():
    with pytest.raises(ValueError, match=r"model must have one rotary_emb.* got Linear"):
        Rotary.of(torch.nn.Linear(2, 2))


def test_a_frequency_that_two_axes_drive_is_refused():
    class Mixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inv_freq, self.mrope_section = torch.ones(2), [1, 1, 0]

        def forward(self, x, positions):
            angle = positions.float().sum(0)[..., None] * torch.ones(4)
            return angle.cos(), angle.sin()

    with pytest.raises(ValueError, match=r"one axis of its positions, got Mixed"):
        Rotary.of(Mixed())


@pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 2, 2)])
def test_a_shift_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"shift must have shape \(3, R\)"):
        Rotary.of(rotary_of("qwen2_5_vl")).tables(torch.zeros(shape))


def test_axes_that_attention_picks_later_are_those_of_its_sections():
    class Later(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inv_freq, self.mrope_section = torch.ones(4), [1, 2, 1]

        def forward(self, x, positions):
            angle = (positions.float()[..., None] * self.inv_freq).repeat(1, 1, 1, 2)  # (axes, 1, L, 2 F)
            return angle.cos(), angle.sin()

    assert Rotary.of(Later()).axis.tolist() == [0, 1, 1, 2]


def test_axes_of_frequencies_that_stand_beside_themselves():
    class Beside(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inv_freq, self.mrope_section = torch.ones(4), [1, 2, 1]

        def forward(self, x, positions):
            angle = positions[[0, 1, 1, 2], 0].T[None].float().repeat_interleave(2, -1)  # (1, L, 2 F)
            return angle.cos(), angle.sin()

    assert Rotary.of(Beside()).axis.tolist() == [0, 1, 1, 2]
