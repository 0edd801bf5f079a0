"""Muon for the matrices of the layers, AdamW for the rest, one rate for both; a moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Optimizers:
    """Two optimizers as one.

    Args:
        modules: what is trained.
        layers: those of its modules whose matrices Muon takes.
        rate: of learning, at its highest.
    """

    def __init__(self, modules: Iterable[nn.Module], layers: Iterable[nn.Module], rate: float) -> None:
        weights = {id(p): p for module in modules for p in module.parameters()}
        matrices = {id(p): p for layer in layers for p in layer.parameters() if p.ndim == 2}
        rest = [p for key, p in weights.items() if key not in matrices]
        self._weights, self._rate = list(weights.values()), rate
        self._each = [
            torch.optim.Muon(matrices.values(), lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=rate, weight_decay=0.0, betas=(0.9, 0.98)),
        ]

    def step(self, loss: torch.Tensor, share: float) -> None:
        """A step down the gradient of `loss` at a share of the highest rate."""
        for optimizer in self._each:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = share * self._rate
        loss.backward()
        nn.utils.clip_grad_norm_(self._weights, 1.0)
        for optimizer in self._each:
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {str(n): optimizer.state_dict() for n, optimizer in enumerate(self._each)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for n, optimizer in enumerate(self._each):
            optimizer.load_state_dict(state[str(n)])


class Average:
    """A moving average of a module's weights, over about the last `span` steps."""

    def __init__(self, module: nn.Module, span: int = 500) -> None:
        self._module, self._span, self._steps = module, span, 0
        self.weights = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        self._steps += 1
        part = max(1 / self._span, 1 / self._steps)
        for name, value in self._module.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, part)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the module has the average for its weights."""
        own = {name: value.clone() for name, value in self._module.state_dict().items()}
        self._module.load_state_dict(self.weights)
        try:
            yield
        finally:
            self._module.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps, self.weights = state["steps"], state["weights"]
