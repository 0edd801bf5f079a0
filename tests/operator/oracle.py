"""The pruning step written out token by token, from the specification and from nothing else.

Plain Python loops in double precision, one dot product at a time. It shares no code with the library, so that the two
can only agree by both being right. Options are those of `PruneConfig`, given as keywords; tensors come in as they are.

A decision depends on rounding only where a similarity is close to a threshold. `OracleResult.margin` says how close the
closest one came. `given=` removes the question: the similarities that the implementation reports are first compared
with the ones computed here, then every decision is taken from the reported values, so that it must match exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

EPS = 1e-8
FP32_MAX = float(np.finfo(np.float32).max)
NAN = float("nan")


@dataclass
class OracleState:
    """What a stream remembers: the frames seen, and per place the token that the next one is compared with."""

    frames: int = 0
    reference: list[list[np.ndarray | None]] | None = None


@dataclass
class OracleResult:
    """What one call must return; `margin` is the smallest distance of a decision from its tipping point."""

    keep: np.ndarray
    temporal: np.ndarray
    spatial: np.ndarray
    carriers: np.ndarray | None
    indices: list[int]
    counts: list[int]
    cu_counts: list[int]
    nonfinite: int
    overflow: bool
    state: OracleState
    margin: float
    tied: bool


def is_finite(token: np.ndarray) -> bool:
    """Whether every value of the token is a number."""
    return all(map(math.isfinite, token.tolist()))


def squared_norm(token: np.ndarray) -> float:
    """Sum of squares; a token too long for fp32 counts as a zero vector."""
    total = float(np.dot(token, token))
    return 0.0 if total > FP32_MAX else total


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """`a.b / (max(|a|, eps) * max(|b|, eps))`, clamped to [-1, 1]."""
    aa, bb = squared_norm(a), squared_norm(b)
    if aa == 0.0 or bb == 0.0:
        return 0.0
    value = float(np.dot(a, b)) / (max(math.sqrt(aa), EPS) * max(math.sqrt(bb), EPS))
    return min(1.0, max(-1.0, value))


def is_candidate(mask: Any, frame: int, i: int, j: int) -> bool:
    """Whether the spatial stage may drop place (i, j) of the given frame of the stream."""
    if mask is None:
        return False
    if isinstance(mask, torch.Tensor):
        return bool(mask[i, j])
    if mask == "checkerboard":
        return (i + j) % 2 == 1
    if mask == "checkerboard_even":
        return (i + j) % 2 == 0
    if mask == "alternate":
        return (i + j + frame) % 2 == 1
    if mask == "rows":
        return i % 2 == 1
    if mask == "columns":
        return j % 2 == 1
    if mask == "all":
        return True
    raise AssertionError(f"the oracle knows no mask {mask!r}")


def neighbours(height: int, width: int, i: int, j: int) -> list[tuple[int, int]]:
    """The in-grid 4-neighbours of (i, j)."""
    around = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
    return [(p, q) for p, q in around if 0 <= p < height and 0 <= q < width]


def as_fp32(value: float) -> float:
    """The value rounded to fp32."""
    return float(np.float32(value))


class _Margin:
    """Keeps the smallest distance of any decision from its tipping point."""

    def __init__(self) -> None:
        self.smallest = math.inf
        self.tied = False
        self.opposite = False  # a cosine of -1 was computed, so a tie at -1 may be one of arithmetic

    def exceeds(self, value: float, threshold: float) -> bool:
        self.smallest = min(self.smallest, abs(value - threshold))
        return as_fp32(value) > as_fp32(threshold)

    def least_redundant(self, ranked: list[tuple[float, int]], how_many: int) -> set[int]:
        """Indices of the `how_many` smallest redundancies; the lower index wins a tie."""
        order = sorted((as_fp32(r), index) for r, index in ranked)
        if 0 < how_many < len(order):
            gap = order[how_many][0] - order[how_many - 1][0]
            if gap > 0.0:
                self.smallest = min(self.smallest, gap)
            elif (
                order[how_many][0] != -1.0 or self.opposite
            ):  # two missing parts tie by definition, anything else by arithmetic
                self.tied = True
        return {index for _, index in order[: max(how_many, 0)]}


def prune(
    x: torch.Tensor,
    *,
    state: OracleState | None = None,
    capacity: int | None = None,
    given: tuple[torch.Tensor, torch.Tensor] | None = None,
    tolerance: float = 1e-5,
    temporal_threshold: float | None = 0.2,
    spatial_threshold: float | None = 0.5,
    mask: Any = "checkerboard",
    neighbors: str = "grid",
    reference: str = "previous",
    keyframe_interval: int | None = None,
    keep_tokens: int | None = None,
    scope: str = "frame",
    max_tokens: int | None = None,
    carrier: str | None = "all",
) -> OracleResult:
    """Prune one chunk `(T, H, W, D)`; the given state is left alone, the new one is in the result."""
    frames, height, width, depth = x.shape
    values = x.detach().cpu().to(torch.float64).numpy()
    before = state if state is not None else OracleState()
    place: list[list[np.ndarray | None]]
    if before.reference is None:
        place = [[None] * width for _ in range(height)]
    else:
        place = [list(row) for row in before.reference]

    margin = _Margin()
    temporal = np.full((frames, height, width), NAN)
    spatial = np.full((frames, height, width), NAN)
    keep = np.zeros((frames, height, width), dtype=bool)
    finite = np.zeros((frames, height, width), dtype=bool)
    nonfinite = 0
    room = math.inf if capacity is None else capacity
    overflow = False
    clip: list[tuple[float, int]] = []
    grid = [(i, j) for i in range(height) for j in range(width)]

    def reported(own: float, which: int, n: int, i: int, j: int) -> float:
        """The similarity to decide by: the implementation's where one was given, after a look at how far off it is."""
        if given is None:
            return own
        theirs = float(given[which][n, i, j])
        name = ("temporal", "spatial")[which]
        assert math.isnan(own) == math.isnan(theirs), f"{name}[{n},{i},{j}] is {theirs}, expected {own}"
        if not math.isnan(own):
            assert -1.0 <= theirs <= 1.0, f"{name}[{n},{i},{j}] is {theirs}, outside [-1, 1]"
            assert abs(own - theirs) <= tolerance, f"{name}[{n},{i},{j}] is {theirs}, expected {own}"
        return theirs

    def flat(n: int, i: int, j: int) -> int:
        return (n * height + i) * width + j

    def cut(n: int) -> None:
        """Turn off what no longer fits, in raster order."""
        nonlocal room, overflow
        for i, j in grid:
            if keep[n, i, j]:
                if room <= 0:
                    keep[n, i, j] = False
                    overflow = True
                else:
                    room -= 1

    for n in range(frames):
        number = before.frames + n
        keyframe = keyframe_interval is not None and number % keyframe_interval == 0

        for i, j in grid:
            finite[n, i, j] = is_finite(values[n, i, j])
            nonfinite += not finite[n, i, j]

        # temporal stage
        dropped_t = np.zeros((height, width), dtype=bool)
        for i, j in grid:
            own = NAN
            other = place[i][j]
            if finite[n, i, j] and other is not None:
                own = cosine(values[n, i, j], other)
            s_t = reported(own, 0, n, i, j)
            temporal[n, i, j] = s_t
            if math.isnan(s_t) or keyframe or keep_tokens is not None or temporal_threshold is None:
                continue
            dropped_t[i, j] = margin.exceeds(s_t, temporal_threshold)

        # spatial stage
        dropped_s = np.zeros((height, width), dtype=bool)
        for i, j in grid:
            own = NAN
            if mask is not None and finite[n, i, j]:
                for p, q in neighbours(height, width, i, j):
                    if not finite[n, p, q]:
                        continue
                    if neighbors == "survivors" and dropped_t[p, q]:
                        continue
                    c = cosine(values[n, i, j], values[n, p, q])
                    own = c if math.isnan(own) else max(own, c)
            s_s = reported(own, 1, n, i, j)
            spatial[n, i, j] = s_s
            if math.isnan(s_s) or keyframe or keep_tokens is not None or spatial_threshold is None:
                continue
            if is_candidate(mask, number, i, j):
                dropped_s[i, j] = margin.exceeds(s_s, spatial_threshold)

        # what is left, and how redundant it is
        ranked: list[tuple[float, int]] = []
        for i, j in grid:
            keep[n, i, j] = finite[n, i, j] and not dropped_t[i, j] and not dropped_s[i, j]
            if keep[n, i, j] and not keyframe:
                r = -1.0 if math.isnan(temporal[n, i, j]) else temporal[n, i, j]
                if not math.isnan(spatial[n, i, j]):
                    if is_candidate(mask, number, i, j):
                        r = max(r, spatial[n, i, j])
                    elif math.isnan(temporal[n, i, j]):
                        r = (spatial[n, i, j] - 1) / 2
                ranked.append((r, flat(n, i, j)))
                margin.opposite |= r < -1 + 1e-5 and not math.isnan(temporal[n, i, j])

        # budgets
        if not keyframe:
            if keep_tokens is not None and scope == "clip":
                clip.extend(ranked)
            elif keep_tokens is not None:
                chosen = margin.least_redundant(ranked, keep_tokens)
                for i, j in grid:
                    keep[n, i, j] = flat(n, i, j) in chosen
            elif max_tokens is not None:
                chosen = margin.least_redundant(ranked, max_tokens)
                for i, j in grid:
                    keep[n, i, j] = flat(n, i, j) in chosen
        if scope != "clip" or keep_tokens is None:
            cut(n)

        # what the next frame is compared with
        for i, j in grid:
            if reference == "previous":
                place[i][j] = values[n, i, j].copy() if finite[n, i, j] else None
            elif keep[n, i, j]:
                place[i][j] = values[n, i, j].copy()

    if keep_tokens is not None and scope == "clip":
        chosen = margin.least_redundant(clip, keep_tokens)
        ranked_here = {index for _, index in clip}
        for n in range(frames):
            for i, j in grid:
                if flat(n, i, j) in ranked_here:
                    keep[n, i, j] = flat(n, i, j) in chosen
            cut(n)

    carriers: np.ndarray | None = None
    if carrier is not None:
        carriers = np.zeros((frames, depth))
        for n in range(frames):
            chosen_places = [(i, j) for i, j in grid if keep[n, i, j]]
            if carrier == "all" or not chosen_places:
                chosen_places = [(i, j) for i, j in grid if finite[n, i, j]]
            if not chosen_places:
                continue
            columns = zip(*(values[n, i, j].tolist() for i, j in chosen_places), strict=True)
            for d, column in enumerate(columns):
                carriers[n, d] = math.fsum(column) / len(chosen_places)

    indices = [flat(n, i, j) for n in range(frames) for i, j in grid if keep[n, i, j]]
    counts = [sum(bool(keep[n, i, j]) for i, j in grid) for n in range(frames)]
    cu_counts = [0]
    for count in counts:
        cu_counts.append(cu_counts[-1] + count)
    after = OracleState(before.frames + frames, place if frames or before.reference is not None else None)
    return OracleResult(
        keep=keep,
        temporal=temporal,
        spatial=spatial,
        carriers=carriers,
        indices=indices,
        counts=counts,
        cu_counts=cu_counts,
        nonfinite=nonfinite,
        overflow=overflow,
        state=after,
        margin=margin.smallest,
        tied=margin.tied,
    )
