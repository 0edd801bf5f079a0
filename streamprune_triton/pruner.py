"""The pruning step as functions and as an object that carries a stream's state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import overload

import torch

from . import gradients, ops, validate
from .config import MOST, PruneConfig
from .result import PaddedPruneResult, PruneResult
from .state import StreamState

DEFAULT = PruneConfig()


@overload
def prune(
    x: torch.Tensor, config: PruneConfig = DEFAULT, *, state: StreamState | None = None, backend: str = "auto"
) -> PruneResult: ...
@overload
def prune(
    x: Sequence[torch.Tensor],
    config: PruneConfig = DEFAULT,
    *,
    state: Sequence[StreamState | None] | None = None,
    backend: str = "auto",
) -> list[PruneResult]: ...
def prune(x, config=DEFAULT, *, state=None, backend="auto"):
    """Drops the redundant visual tokens of the next frames of a stream, or of several streams at once.

    Computes, per token, the cosine similarity to the reference frame (DTD, arXiv 2504.17343) and the highest one to a
    4-neighbour (MSSAVT, arXiv 2512.12560), keeps what neither finds redundant, and pools each frame into a semantic
    carrier (VideoScan, arXiv 2503.09387). A stream cut into any chunks gives the same bits.

    Args:
        x: (T, H, W, D) float32, bfloat16 or float16 visual tokens as the language model would receive them, or a
            list of such (a ragged batch: T, H, W may differ, D may not), which shares its launches.
        config: what to drop.
        state: the `state` of the stream's previous result; None begins a stream. For a list, a list of such.
        backend: "triton", "torch" (the plain PyTorch specification), or "auto": Triton on a GPU where it is installed
            (and on a CPU in Triton's interpreter, under TRITON_INTERPRET=1), torch elsewhere.

    Returns:
        A PruneResult, or a list of them for a list. Its tokens and carriers have gradients into x; what is kept is
        not differentiated.

    Raises:
        ValueError, TypeError: before anything is computed; the message names the argument.
    """
    single = isinstance(x, torch.Tensor)
    xs = [x] if single else _listed(x)
    states = [state] if single else _states(state, len(xs))
    _check(xs, states, config)
    ops.check_backend(backend)
    if not xs:
        return []
    padded = ops.run([each.detach() for each in xs], states, config, [_most(each, config) for each in xs], backend)
    results = [_result(each, one, config) for each, one in zip(xs, padded, strict=True)]
    return results[0] if single else results


def prune_padded(
    x: torch.Tensor,
    config: PruneConfig = DEFAULT,
    *,
    capacity: int,
    state: StreamState | None = None,
    out: PaddedPruneResult | None = None,
) -> PaddedPruneResult:
    """`prune` with shapes that do not depend on data: never waits for the host, can be captured in a CUDA graph.

    Args:
        x, config, state: as in `prune`; x is one stream's (T, H, W, D). In a capture, a config's mask tensor must be on
            x's device already.
        capacity: rows of the result's tokens and indices. Where more are left, the first `capacity` in order are
            kept and `overflow` is set.
        out: an earlier result of the same shapes, whose memory is written again. It must not share memory with x or
            state: a replayed graph ends with `state.copy_(out.state)`.

    Returns:
        A PaddedPruneResult; `out` itself where it was given.

    Raises:
        ValueError, TypeError: before anything is computed; the message names the argument.
    """
    if isinstance(capacity, bool) or not isinstance(capacity, Integral):
        raise TypeError(f"capacity must be an integer, got {type(capacity).__name__}")
    if not 0 <= capacity <= MOST:
        raise ValueError(f"capacity must be at least 0, at most {MOST}, got {capacity}")
    _check([x], [state], config)
    if gradients.wanted(x):
        raise ValueError("x must not require a gradient here: use prune, or x.detach()")
    return ops.run([x], [state], config, [int(capacity)], "auto", out)[0]


class StreamPruner:
    """`prune` for one stream: remembers the state between calls. A call that fails leaves it as it was.

    Args:
        config: what to drop.
        backend: as in `prune`.
    """

    def __init__(self, config: PruneConfig = DEFAULT, *, backend: str = "auto") -> None:
        validate.check_config(config, [])
        ops.check_backend(backend)
        self.config = config
        self.backend = backend
        self.state: StreamState | None = None

    def __repr__(self) -> str:
        return f"StreamPruner({self.config}, backend={self.backend!r}, state={self.state})"

    def __call__(self, x: torch.Tensor) -> PruneResult:
        """Prunes the next frames x (T, H, W, D) of the stream. Raises as `prune` does."""
        result = prune(validate.check_features(x), self.config, state=self.state, backend=self.backend)
        self.state = result.state
        return result

    def reset(self) -> None:
        """Begins a new stream."""
        self.state = None

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The state's tensors by name; empty before the first frame."""
        return {} if self.state is None else self.state.state_dict()

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> None:
        """Continues from a `state_dict()`. Raises ValueError for other names or shapes, and then changes nothing."""
        self.state = None if tensors == {} else StreamState.from_dict(tensors)

    def clone(self) -> StreamPruner:
        """A pruner that goes on from the same state, independently."""
        other = StreamPruner(self.config, backend=self.backend)
        other.state = self.state  # states are never written in place, so both may hold this one
        return other


def _check(xs: list[torch.Tensor], states: list[StreamState | None], config: PruneConfig) -> None:
    validate.check_batch(xs)
    validate.check_config(config, xs)
    for b, (x, state) in enumerate(zip(xs, states, strict=True)):
        validate.check_state(state, x, f"[{b}]" if len(xs) > 1 else "")
        gradients.check(x)


def _result(x: torch.Tensor, padded: PaddedPruneResult, config: PruneConfig) -> PruneResult:
    if not gradients.wanted(x):
        return PruneResult(padded)
    tokens, carriers = gradients.tokens(x, padded), gradients.carriers(x, padded, config.carrier)
    return PruneResult(replace(padded, tokens=tokens, carriers=carriers))


def _listed(x: object) -> list[torch.Tensor]:
    if not isinstance(x, Sequence):
        cure = validate.as_tensor(x, "x")
        raise TypeError(f"x must be a tensor (T, H, W, D) or a list of such, got {type(x).__name__}{cure}")
    return list(x)


def _states(state: object, count: int) -> list[StreamState | None]:
    if state is None:
        return [None] * count
    if not isinstance(state, Sequence) or len(state) != count:
        raise ValueError(f"state must be a list with one entry for each of the {count} streams in x, or None")
    return list(state)


def _most(x: torch.Tensor, config: PruneConfig) -> int:
    """The most tokens that can be kept of x: a budget bounds them, unless keyframes are outside of it."""
    t, h, w, _ = x.shape
    budget = config.max_tokens if config.keep_tokens is None else config.keep_tokens
    if budget is None or config.keyframe_interval is not None:
        return t * h * w
    if config.keep_tokens is not None and config.scope == "clip":
        return min(budget, t * h * w)
    return t * min(budget, h * w)
