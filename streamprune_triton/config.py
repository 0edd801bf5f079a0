"""What to drop: the one configuration object of the pruning step."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch

MASKS = ("checkerboard", "checkerboard_even", "alternate", "rows", "columns", "all")
NEIGHBORS = ("grid", "survivors")
REFERENCES = ("previous", "last_kept")
SCOPES = ("frame", "clip")
CARRIERS = ("all", "kept")
MOST = 2**31 - 1  # of any count


@dataclass(frozen=True, eq=False)
class PruneConfig:
    """Which tokens of a frame are dropped, and what stands in for them.

    The defaults are the operating point of StreamingAssistant (arXiv 2512.12560): temporal pruning (DTD, arXiv
    2504.17343) at cosine similarity 0.2, spatial pruning (MSSAVT) at 0.5 on a checkerboard, and the semantic carrier
    of VideoScan (arXiv 2503.09387) as the mean of each frame.

    Args:
        temporal_threshold: drop a token whose cosine similarity to the reference token at its place is above this;
            in [-1, 1], or None for no temporal pruning.
        spatial_threshold: drop a candidate whose highest cosine similarity to a 4-neighbour is above this;
            in [-1, 1], or None for no spatial pruning.
        mask: which tokens are candidates of the spatial stage. "checkerboard" (odd i + j), "checkerboard_even",
            "alternate" (the parity flips with every frame of the stream), "rows" and "columns" (the odd ones),
            "all", a bool tensor (H, W), or None for none.
        neighbors: "grid" compares with every neighbour in the grid, "survivors" only with those that the temporal
            stage kept.
        reference: "previous" compares with the previous frame as it came, "last_kept" with the last token kept at
            the place, so that a slow drift cannot vanish.
        keyframe_interval: every k-th frame of a stream, the first included, is kept whole. None: no keyframes.
        keep_tokens: an exact budget in place of the thresholds: the K least redundant tokens are kept.
        scope: what keep_tokens counts over, each "frame" or the whole "clip" of one call.
        max_tokens: a cap behind the thresholds: at most so many tokens a frame, the least redundant ones.
        carrier: "all" is the mean of a frame's tokens, "kept" the mean of the kept ones, None computes none.

    A budget ranks tokens by r = max(s_t, s_s where candidate), least first, ties to the lower index. Without a
    reference token, as in a stream's first frame, one that is no candidate has r = (s_s - 1) / 2: it stays longer than
    candidates as like their neighbours, and a budget of less than half a frame goes to what differs from its own.

    Keyframes count against neither keep_tokens nor max_tokens. Under keep_tokens nothing is dropped by the temporal
    stage, so neighbors="survivors" is the same as "grid" there.

    Raises:
        ValueError, TypeError: for a value outside of what is listed, naming the argument.
    """

    temporal_threshold: float | None = 0.2
    spatial_threshold: float | None = 0.5
    mask: str | torch.Tensor | None = "checkerboard"
    neighbors: str = "grid"
    reference: str = "previous"
    keyframe_interval: int | None = None
    keep_tokens: int | None = None
    scope: str = "frame"
    max_tokens: int | None = None
    carrier: str | None = "all"

    def __post_init__(self) -> None:
        for name in ("temporal_threshold", "spatial_threshold"):
            self._set(name, _threshold(name, getattr(self, name)))
        for name, least in (("keyframe_interval", 1), ("keep_tokens", 0), ("max_tokens", 0)):
            self._set(name, _count(name, getattr(self, name), least))
        _check_mask(self.mask)
        if isinstance(self.mask, torch.Tensor):
            self._set("mask", self.mask.clone())  # the caller's may change
        _check_choice("neighbors", self.neighbors, NEIGHBORS)
        _check_choice("reference", self.reference, REFERENCES)
        _check_choice("scope", self.scope, SCOPES)
        if self.carrier is not None:
            _check_choice("carrier", self.carrier, CARRIERS)
        if self.keep_tokens is not None and self.max_tokens is not None:
            raise ValueError("max_tokens caps a threshold and keep_tokens replaces it: give one of the two")
        if self.reference == "last_kept" and self.keep_tokens is not None and self.scope == "clip":
            raise ValueError(
                'reference="last_kept" needs each frame decided before the next, which scope="clip" cannot do: '
                'use scope="frame" or reference="previous"'
            )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _key(self) -> tuple[Any, ...]:
        mask = self.mask
        return (
            self.temporal_threshold,
            self.spatial_threshold,
            (*mask.shape, *mask.flatten().tolist()) if isinstance(mask, torch.Tensor) else mask,
            self.neighbors,
            self.reference,
            self.keyframe_interval,
            self.keep_tokens,
            self.scope,
            self.max_tokens,
            self.carrier,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PruneConfig) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def _threshold(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number in [-1, 1] or None, got {type(value).__name__}")
    if not -1 <= float(value) <= 1:
        raise ValueError(f"{name} must be in [-1, 1] or None, got {value}")
    return float(value)


def _count(name: str, value: Any, least: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer or None, got {type(value).__name__}")
    if not least <= int(value) <= MOST:
        raise ValueError(f"{name} must be at least {least}, at most {MOST}, or None, got {value}")
    return int(value)


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _check_mask(mask: object) -> None:
    if isinstance(mask, torch.Tensor):
        if mask.dtype != torch.bool or mask.ndim != 2:
            cure = "" if mask.dtype == torch.bool else ": use mask.bool()"
            raise ValueError(f"mask must be a bool tensor (H, W), got {mask.dtype} of shape {tuple(mask.shape)}{cure}")
    elif mask is not None and (not isinstance(mask, str) or mask not in MASKS):
        got = type(mask).__name__ if hasattr(mask, "shape") else repr(mask)
        raise ValueError(f"mask must be one of {', '.join(MASKS)}, a bool tensor (H, W) or None, got {got}")
