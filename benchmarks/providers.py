"""Who is timed: ours, our specification eager and compiled, and peers. Rivals are declared once, here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import streamprune_triton as sp
from streamprune_triton import ops, reference
from streamprune_triton.rule import Rule

from .cases import Case
from .peers import PEERS

CONFIG = sp.PruneConfig()
TOLERANCE = 1e-5  # of a cosine against float64, and how near a threshold a decision may differ


@dataclass(frozen=True)
class Inputs:
    """One of several equal sets, which take turns so that no run finds its input in the cache."""

    x: list[torch.Tensor]  # of (T, H, W, D)
    states: list[sp.StreamState | None]


@dataclass(frozen=True)
class Provider:
    """One way to prune.

    Attributes:
        name: as in the rows.
        run: Inputs -> what it returns.
        check: (Case, Inputs) -> error; raises AssertionError where the result is wrong. For ours it is the largest
            error of a similarity against float64, for a peer the share of decisions that differ from its own formula
            in float64.
        modes: of "call", "padded", "kernel".
        fits: whether it can run the case in bounded time.
    """

    name: str
    run: Callable[[Inputs], Any]
    check: Callable[[Case, Inputs], float]
    modes: tuple[str, ...] = ("call", "kernel")
    fits: Callable[[Case], bool] = lambda case: True


def providers(device: torch.device) -> list[Provider]:
    """All that run on the device, ours first."""
    ours = "triton" if ops.runs_triton(device) else "torch"
    found = [
        Provider(f"ours ({ours})", _prune, lambda case, inputs: _check(inputs, _prune(inputs)), ("call",)),
        Provider(
            f"ours, padded ({ours})",
            _padded,
            lambda case, inputs: _check(inputs, [_padded(inputs)]),
            ("padded", "kernel"),
            lambda case: case.streams == 1,
        ),
        Provider(
            f"ours, one call a stream ({ours})",
            _one_by_one,
            lambda case, inputs: _check(inputs, _one_by_one(inputs)),
            ("call",),
            lambda case: case.streams > 1,
        ),
    ]
    if ours == "triton":
        found.append(
            Provider("specification", _specified, lambda case, inputs: _check(inputs, _specified(inputs)), ("call",))
        )
    found += [_peer(name) for name in PEERS]
    return [*found, Provider("specification, compiled", *_compiled(), fits=lambda case: case.streams == 1)]


def _prune(inputs: Inputs) -> list[sp.PruneResult]:
    return sp.prune(inputs.x, CONFIG, state=inputs.states)


def _one_by_one(inputs: Inputs) -> list[sp.PruneResult]:
    return [sp.prune(x, CONFIG, state=s) for x, s in zip(inputs.x, inputs.states, strict=True)]


def _padded(inputs: Inputs) -> sp.PaddedPruneResult:
    (x,), (state,) = inputs.x, inputs.states
    return sp.prune_padded(x, CONFIG, capacity=x.shape[:3].numel(), state=state)


def _specified(inputs: Inputs) -> list[sp.PruneResult]:
    return sp.prune(inputs.x, CONFIG, state=inputs.states, backend="torch")


def _compiled() -> tuple[Callable[[Inputs], Any], Callable[[Case, Inputs], float]]:
    """The specification's decision under torch.compile, without the gather of the kept tokens, which it cannot fuse.

    Compiled for each case alone: torch.compile gives up behind some shapes, and would go on without a word.
    """

    def decision(x: torch.Tensor, before: torch.Tensor, norms: torch.Tensor, frames: torch.Tensor) -> tuple:
        rule = Rule.of(CONFIG, x.device)
        scores = reference.score(x, before, True, True)
        return *reference.decide(scores, norms, frames, rule), scores.means.to(x.dtype)

    compiled = torch.compile(decision, options={"max_autotune": True}, dynamic=False)

    def run(inputs: Inputs) -> Any:
        state = inputs.states[0] or _no_state(inputs.x[0])
        return compiled(inputs.x[0], state.reference, state.squared_norms, state.frames)

    def check(case: Case, inputs: Inputs) -> float:
        torch.compiler.reset()
        keep, temporal, spatial, _ = run(inputs)
        return _error(inputs.x[0], inputs.states[0], keep, temporal, spatial)

    return run, check


def _no_state(x: torch.Tensor) -> sp.StreamState:
    norms = x.new_full(x.shape[1:3], torch.nan, dtype=torch.float32)
    return sp.StreamState(torch.zeros_like(x[0]), norms, torch.zeros((), dtype=torch.int64, device=x.device))


def _peer(name: str) -> Provider:
    peer = PEERS[name]
    slow = {"dtd_published": 1 << 12, "sequential_mssavt": 1 << 12, "divprune": 1 << 12, "tome_step": 1 << 14}

    def whole(inputs: Inputs) -> list[torch.Tensor]:
        return [_with_frame_before(x, s) for x, s in zip(inputs.x, inputs.states, strict=True)]

    def run(inputs: Inputs) -> list[torch.Tensor]:
        return [peer(x) for x in whole(inputs)]

    def check(case: Case, inputs: Inputs) -> float:
        clips = whole(inputs)
        kept, exact = [peer(x) for x in clips], [peer(x.double()) for x in clips]
        for mask, x in zip(kept, clips, strict=True):
            assert mask.dtype == torch.bool, f"{name} must return a bool mask, got {mask.dtype}"
            assert mask.shape == x.shape[:3], f"{name} must return one decision a token"
        differ = sum(int((a != b).sum()) for a, b in zip(kept, exact, strict=True))
        return differ / sum(mask.numel() for mask in kept)

    modes = (
        ("call",) if name in ("dtd_published", "sequential_mssavt", "divprune", "eager_step") else ("call", "kernel")
    )
    return Provider(name, run, check, modes, lambda case: case.tokens <= slow.get(name, 1 << 30))


def _with_frame_before(x: torch.Tensor, state: sp.StreamState | None) -> torch.Tensor:
    """The clip that a peer without state is given: x, behind the frame before it where there is one.

    A view, as the frames lie behind each other in memory: peers are not charged for a copy.
    """
    if state is None:
        return x
    step = x.stride(0)
    return x.as_strided((x.shape[0] + 1, *x.shape[1:]), x.stride(), x.storage_offset() - step)


def _check(inputs: Inputs, results: list) -> float:
    errors = [
        _error(x, state, r.keep, r.temporal, r.spatial)
        for x, state, r in zip(inputs.x, inputs.states, results, strict=True)
    ]
    for x, result in zip(inputs.x, results, strict=True):
        kept = int(result.cu_counts[-1])
        expected = result.keep.flatten().nonzero().squeeze(1)
        assert torch.equal(result.indices[:kept], expected), "indices are not those of the mask"
        assert torch.equal(result.tokens[:kept], x.flatten(0, 2)[expected]), "tokens are not copies of the kept ones"
    return max(errors)


def _error(
    x: torch.Tensor, state: sp.StreamState | None, keep: torch.Tensor, temporal: torch.Tensor, spatial: torch.Tensor
) -> float:
    """The largest error of a similarity against float64; decisions may differ only that near a threshold."""
    exact_temporal, exact_spatial = _exact(x, state)
    error = 0.0
    for got, exact in ((temporal, exact_temporal), (spatial, exact_spatial)):
        assert torch.equal(got.isnan(), exact.isnan()), "similarities are missing at other places"
        error = max(error, float((got.double() - exact).nan_to_num().abs().max()))
    assert error < TOLERANCE, f"a similarity is off by {error:.2g}"
    h, w = keep.shape[1:]
    odd = (torch.arange(h, device=x.device)[:, None] + torch.arange(w, device=x.device)) % 2 == 1
    limits = ((exact_temporal, CONFIG.temporal_threshold), (exact_spatial, CONFIG.spatial_threshold))
    close = torch.zeros_like(keep)
    drop = torch.zeros_like(keep)
    for (exact, limit), counts in zip(limits, (torch.ones_like(odd), odd), strict=True):
        assert limit is not None
        drop |= counts & (exact > limit)
        close |= (exact - limit).abs() < TOLERANCE
    assert bool(((keep == ~drop) | close).all()), "a decision differs from float64's"
    return error


def _exact(x: torch.Tensor, state: sp.StreamState | None) -> tuple[torch.Tensor, torch.Tensor]:
    """(temporal, spatial) in float64, frame by frame."""
    temporal, spatial = [], []
    before = None if state is None else _unit(state.reference)
    for frame in x:
        unit = _unit(frame)
        temporal.append((unit * before).sum(-1) if before is not None else unit.new_full(unit.shape[:2], torch.nan))
        best = unit.new_full(unit.shape[:2], -torch.inf)
        right, down = (unit[:, 1:] * unit[:, :-1]).sum(-1), (unit[1:] * unit[:-1]).sum(-1)
        for here, edge in ((best[:, 1:], right), (best[:, :-1], right), (best[1:], down), (best[:-1], down)):
            here.copy_(here.maximum(edge))
        spatial.append(best.masked_fill(best.isinf(), torch.nan))
        before = unit
    return torch.stack(temporal), torch.stack(spatial)


def _unit(frame: torch.Tensor) -> torch.Tensor:
    f = frame.double()
    return f / f.norm(dim=-1, keepdim=True)
