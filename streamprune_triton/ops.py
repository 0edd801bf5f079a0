"""The pruning step as registered operators, `torch.ops.streamprune.*`: schema, shapes, and who computes it where."""

from __future__ import annotations

import torch

from . import reference
from .config import PruneConfig
from .result import PaddedPruneResult
from .rule import Rule
from .state import StreamState

BACKENDS = ("auto", "triton", "torch")


def check_backend(backend: object) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")


def run(
    xs: list[torch.Tensor],
    states: list[StreamState | None],
    config: PruneConfig,
    capacities: list[int],
    backend: str,
    out: PaddedPruneResult | None = None,
) -> list[PaddedPruneResult]:
    check_backend(backend)
    rule = Rule.of(config, xs[0].device)
    results = []
    for x, state, capacity in zip(xs, states, capacities, strict=True):
        held = (None, None, None) if state is None else (state.reference, state.squared_norms, state.frames)
        results.append(_result(reference.prune(x, *held, rule, capacity), config))
    return results


def _result(p: reference.Pruned, config: PruneConfig) -> PaddedPruneResult:
    return PaddedPruneResult(
        *p[:5], p.carriers if config.carrier else None, *p[6:10], StreamState(p.reference, p.squared_norms, p.frames)
    )
