"""How exactly things must agree: one table, and the comparisons that use it."""

from __future__ import annotations

import math
import os
from typing import Any
from unittest import mock

import numpy as np
import torch
from features import INTERPRETED
from oracle import FP32_MAX, OracleResult, OracleState
from oracle import prune as oracle_prune

import streamprune_triton as sp

# Cosines are computed in fp32 whatever the dtype of the features, so their tolerance has no dtype.
COSINE = 1e-5
MARGIN = 1e-5  # a decision closer than this to its tipping point may go either way

# Carriers: (relative to the value, relative to the mean magnitude that went into it, absolute). The first is the last
# place of the dtype they are cast to, the second the fp32 sum, the third the smallest numbers of the dtype. Triton's
# interpreter casts fp32 to bf16 by cutting off bits, where a GPU rounds to the nearest: twice the error there.
CARRIER = {
    torch.float32: (2.0**-22, 4e-6, 2.0**-126),
    torch.bfloat16: (2.0**-7 if INTERPRETED else 2.0**-8, 4e-6, 2.0**-126),
    torch.float16: (2.0**-11, 4e-6, 2.0**-24),
}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bits as integers, so that NaNs and signed zeros compare too."""
    tensor = tensor.detach().cpu().contiguous()
    if not tensor.dtype.is_floating_point:
        return tensor
    return tensor.view(torch.int16 if tensor.element_size() == 2 else torch.int32)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether shape, dtype and every bit agree; any NaN equals any other."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    equal = bits(a) == bits(b)
    if a.dtype.is_floating_point:
        equal |= a.detach().cpu().isnan() & b.detach().cpu().isnan()
    return bool(equal.all())


def assert_bits(a: torch.Tensor, b: torch.Tensor, what: str) -> None:
    """Fails unless a and b agree bit for bit."""
    if same_bits(a, b):
        return
    if a.shape != b.shape or a.dtype != b.dtype:
        raise AssertionError(f"{what} is {a.dtype} {tuple(a.shape)} in one, {b.dtype} {tuple(b.shape)} in the other")
    a, b = a.detach().cpu(), b.detach().cpu()
    places = ((bits(a) != bits(b)) & ((a == a) | (b == b))).nonzero().tolist()
    first = [(tuple(at), a[tuple(at)].item(), b[tuple(at)].item()) for at in places[:3]]
    raise AssertionError(f"{what} differs at {len(places)} of {a.numel()} places: {first}")


def assert_same_state(a: sp.StreamState, b: sp.StreamState) -> None:
    """Fails unless two states agree bit for bit wherever they hold a reference."""
    assert_bits(a.frames, b.frames, "state.frames")
    assert_bits(a.squared_norms, b.squared_norms, "state.squared_norms")
    held = ~a.squared_norms.isnan()
    assert_bits(a.reference[held], b.reference[held], "state.reference")


def padded(
    x: torch.Tensor, config: sp.PruneConfig, *, backend: str, capacity: int, **more: Any
) -> sp.PaddedPruneResult:
    """`prune_padded`, which chooses its backend by the device, with a given one."""
    if backend == "triton":
        return sp.prune_padded(x, config, capacity=capacity, **more)
    with mock.patch.dict(os.environ, {"TRITON_INTERPRET": "0"}):
        return sp.prune_padded(x, config, capacity=capacity, **more)


def assert_carriers(got: torch.Tensor, x: torch.Tensor, expected: OracleResult, carrier: str) -> None:
    """Compares carriers with the oracle's, except where the sum leaves fp32."""
    assert expected.carriers is not None
    assert got.dtype == x.dtype
    assert got.shape == expected.carriers.shape
    relative, of_mean, absolute = CARRIER[x.dtype]
    values = x.detach().cpu().double().abs().numpy()
    for n in range(len(x)):
        tokens = values[n].reshape(-1, x.shape[-1])
        finite = np.isfinite(tokens).all(axis=1)
        if carrier == "kept" and expected.keep[n].any():
            finite &= expected.keep[n].reshape(-1)
        total = tokens[finite].sum(axis=0)
        mean = total / max(int(finite.sum()), 1)
        allowed = relative * np.abs(expected.carriers[n]) + of_mean * mean + absolute
        wrong = np.abs(got[n].detach().cpu().double().numpy() - expected.carriers[n]) > allowed
        wrong |= ~np.isfinite(got[n].detach().cpu().double().numpy())
        wrong &= total < FP32_MAX / 2
        assert not wrong.any(), (
            f"carrier of frame {n} at features {np.flatnonzero(wrong)[:5].tolist()}: {got[n][wrong][:5].tolist()}, "
            f"expected {expected.carriers[n][wrong][:5].tolist()}"
        )


def assert_state(state: sp.StreamState, x: torch.Tensor, expected: OracleState) -> None:
    """Compares a state with the oracle's: the references bit for bit, as both hold copies of tokens."""
    assert state.frames.dtype == torch.int64
    assert state.frames.shape == ()
    assert int(state.frames) == expected.frames
    assert state.reference.dtype == x.dtype
    assert state.reference.shape == x.shape[1:]
    assert state.squared_norms.dtype == torch.float32
    held, norms = state.reference.detach().cpu().double().numpy(), state.squared_norms.cpu()
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            token = expected.reference[i][j] if expected.reference is not None else None
            assert math.isnan(norms[i, j]) == (token is None), f"state: place {i},{j} has squared norm {norms[i, j]}"
            if token is not None:
                assert (held[i, j] == token).all(), f"state: place {i},{j} holds another token"


def assert_decision(got: Any, x: torch.Tensor, expected: OracleResult, carrier: str | None = "all") -> None:
    """Compares everything a call returned with what the oracle expects of it."""
    frames, height, width, depth = x.shape
    keep = torch.from_numpy(expected.keep)
    assert got.keep.dtype == torch.bool
    assert got.keep.shape == (frames, height, width)
    wrong = (got.keep.cpu() != keep).nonzero().tolist()
    assert not wrong, f"keep is wrong at {wrong[:5]}"
    assert got.counts.dtype == torch.int32
    assert got.counts.tolist() == expected.counts
    assert got.cu_counts.dtype == torch.int32
    assert got.cu_counts.tolist() == expected.cu_counts
    assert got.nonfinite.dtype == torch.int64
    assert got.nonfinite.shape == ()
    assert int(got.nonfinite) == expected.nonfinite
    for values in (got.temporal, got.spatial):
        assert values.dtype == torch.float32
        assert values.shape == (frames, height, width)
    kept = expected.cu_counts[-1]
    rows = slice(0, kept) if isinstance(got, sp.PaddedPruneResult) else slice(None)
    assert got.indices.dtype == torch.int64
    assert got.indices[rows].tolist() == expected.indices
    assert got.tokens.dtype == x.dtype
    flat = x.detach().cpu().reshape(-1, depth)
    assert_bits(got.tokens[rows], flat[torch.tensor(expected.indices, dtype=torch.int64)], "tokens")
    assert got.tokens.device == got.keep.device == x.device
    if carrier is None:
        assert got.carriers is None
    else:
        assert_carriers(got.carriers, x, expected, carrier)
    if isinstance(got, sp.PaddedPruneResult):
        assert got.overflow.dtype == torch.bool
        assert got.overflow.shape == ()
        assert bool(got.overflow) == expected.overflow
    assert_state(got.state, x, expected.state)


def assert_agrees(
    got: Any,
    x: torch.Tensor,
    options: dict[str, Any],
    *,
    state: OracleState | None = None,
    capacity: int | None = None,
    certain: bool = False,
) -> OracleResult:
    """Compares a result with the oracle, twice.

    First every similarity with the oracle's own, and every decision with what follows from the similarities reported.
    Then, where no decision was a close call, with the oracle on its own. `certain` says that the ties are exact by
    construction and that nothing else is close, so the second comparison is always made.
    """
    carrier = options.get("carrier", "all")
    similar = (got.temporal.cpu(), got.spatial.cpu())
    told = oracle_prune(x, state=state, capacity=capacity, given=similar, tolerance=COSINE, **options)
    assert_decision(got, x, told, carrier)
    alone = oracle_prune(x, state=state, capacity=capacity, **options)
    if certain or (alone.margin > MARGIN and not alone.tied):
        assert_decision(got, x, alone, carrier)
    return told
