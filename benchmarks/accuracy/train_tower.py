"""The first stage: the vision tower learns what is in each token, from dense labels."""

from __future__ import annotations

import torch

from .batch import make
from .network import Network

CLIPS, STEPS = 32, 2


def tower_step(net: Network, seed: int, device: str) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss on new clips, and for each label the share of the shapes' tokens that it is told right for."""
    clips = make(seed, CLIPS, STEPS)
    labels = {name: value.to(device) for name, value in clips.labels.items()}
    x = net.features(clips.frames.to(device))
    losses = net.seen(x.float(), labels)
    there = labels["colour"] > 0
    with torch.no_grad():
        told = {name: head(x.float()).argmax(-1).flatten(1) for name, head in net.sees.items()}
    shares = {f"told {name}": (each == labels[name])[there].float().mean().item() for name, each in told.items()}
    loss = torch.stack(list(losses.values())).sum()
    return loss, shares | {"offset": losses["offset"].item()}
