"""Two ways that do not look at the features."""

from __future__ import annotations

import torch


def random(x: torch.Tensor, count: int) -> torch.Tensor:
    """Any, the same for the same clip: seeded by the features' sum."""
    return torch.randperm(x[..., 0].numel(), generator=generator(x))[:count].sort().values


def uniform(x: torch.Tensor, count: int) -> torch.Tensor:
    """Evenly spaced in the order of the sequence."""
    return ((torch.arange(count) + 0.5) * x[..., 0].numel() / count).long()


def generator(x: torch.Tensor) -> torch.Generator:
    """Of random numbers, the same for the same features."""
    return torch.Generator().manual_seed(int(x.double().sum().item() * 1e6) % (1 << 31))
