"""Rotary positions as a cache needs them: how far each frequency turns when a key moves to another position."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch

from ..transfer import upload

CHANGING = ("dynamic", "longrope")  # rope types whose frequencies depend on the length


@dataclass(frozen=True, eq=False)
class Rotary:
    """The frequencies of a model's RoPE and which axis of its positions drives each.

    A key at position p was turned by the angle p[axis[f]] * inv_freq[f], so one moved by `shift` is turned by
    shift[axis[f]] * inv_freq[f] more: whatever scaled the key at first (YaRN's attention factor) is already in it.
    M-RoPE (Qwen2-VL, arXiv 2409.12191, section 2.1) has the axes time, row, column; plain RoPE has one.

    Attributes:
        inv_freq: (F,) float32, radians a position, of the first 2 F features of a head.
        axis: (F,) int64, below `axes`.
        axes: 1 for plain RoPE, 3 for M-RoPE.
        pairs: whether the model turns feature 2 f with 2 f + 1, as GLM does, not f with f + F (`rotate_half`).
    """

    inv_freq: torch.Tensor
    axis: torch.Tensor
    axes: int
    pairs: bool = False

    @classmethod
    def of(cls, model: Any) -> Rotary:
        """Of a decoder of transformers, or of its `rotary_emb`, asked which frequency answers to which axis.

        Raises:
            ValueError: where frequencies change with the length (rope types dynamic, longrope), and where the model
                has no RoPE of one kind for all layers.
        """
        module = getattr(model, "rotary_emb", model)
        inv_freq = getattr(module, "inv_freq", None)
        if not isinstance(inv_freq, torch.Tensor):
            raise ValueError(f"model must have one rotary_emb.inv_freq for all layers, got {type(model).__name__}")
        kind = getattr(module, "rope_type", "default")
        if kind in CHANGING:
            raise ValueError(f'positions="compact" is not available for rope type {kind!r}: its frequencies change')
        section, pairs = _section(module), _pairs(module)
        if section is None:
            return cls(inv_freq.detach().float(), torch.zeros_like(inv_freq, dtype=torch.int64), 1, pairs)
        return cls(inv_freq.detach().float(), _axis(module, section, inv_freq), len(section), pairs)

    def tables(self, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos, sin (R, F) float32 for `CarrierCache.rotate`: of keys whose positions change by shift (axes, R).

        Angles are computed in float64: of a shift by 1e6, float32 would keep no more than 0.06 rad.
        """
        if shift.ndim != 2 or shift.shape[0] != self.axes:
            raise ValueError(f"shift must have shape ({self.axes}, R), got {tuple(shift.shape)}")
        moved = upload(shift.double(), self.inv_freq.device)
        angle = moved[self.axis].T * self.inv_freq.double()
        return angle.cos().float(), angle.sin().float()


def _section(module: Any) -> list[int] | None:
    """How many frequencies each axis drives, for M-RoPE."""
    section = getattr(module, "mrope_section", None)
    if section is None:
        parameters = getattr(getattr(module, "config", None), "rope_parameters", None) or {}
        section = parameters.get("mrope_section")
    return None if section is None else list(section)


def _pairs(module: Any) -> bool:
    """Asks the function that turns a key of the module's model: a vision tower's may have another beside it."""
    names = vars(sys.modules[type(module).__module__])
    turn = names.get("rotate_half_llm", names.get("rotate_half"))
    return turn is not None and turn(torch.arange(4.0)).tolist() == [-1.0, 0.0, -3.0, 2.0]


@torch.no_grad()
def _axis(module: Any, section: list[int], inv_freq: torch.Tensor) -> torch.Tensor:
    """(F,) int64: the axis that each frequency answers to when one axis after the other moves by 1."""
    axes, f = len(section), len(inv_freq)
    positions = torch.eye(axes, dtype=torch.int64, device=inv_freq.device)[:, None]  # (axes, 1, one step per axis)
    _, sin = module(inv_freq.new_zeros(1, axes, 1, dtype=torch.float32), positions)
    if sin.ndim == 4 and sum(section) == f:  # releases in which attention picks the axes later, section by section
        return torch.repeat_interleave(torch.arange(axes), torch.tensor(section)).to(inv_freq.device)
    doubled = torch.equal(sin[..., ::2], sin[..., 1::2])  # each beside itself, or one half behind the other
    answers = (sin[0, :, ::2] if doubled else sin[0, :, :f]) != 0  # (axes, F)
    if sin.shape != (1, axes, 2 * f) or bool((answers.sum(0) != 1).any()):
        raise ValueError(f"model must drive each frequency by one axis of its positions, got {type(module).__name__}")
    return answers.int().argmax(0)
