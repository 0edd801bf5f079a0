"""Inputs for the tests: correlated random fields, hostile values, and views whose memory is laid out otherwise."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from hypothesis import strategies as st

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's interpreter is slow: fewer and smaller examples
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MASKS = ("checkerboard", "checkerboard_even", "alternate", "rows", "columns", "all", None, "tensor")
FP32_MAX = float(torch.finfo(torch.float32).max)


def examples(count: int) -> int:
    """How many hypothesis examples to run."""
    return max(3, count // 20) if INTERPRETED else count


def field(
    shape: tuple[int, int, int, int],
    *,
    redundancy: float = 0.6,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
) -> torch.Tensor:
    """(T, H, W, D) random tokens that resemble their neighbours in space and time.

    `redundancy` 0 gives independent tokens, 1 tokens that are all alike; between them every token blends its
    predecessor, its neighbours and noise in shares of its own, so that the similarities spread over a wide range.
    """
    frames, height, width, depth = shape
    generator = torch.Generator().manual_seed(seed)

    def noise(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    out = torch.empty(frames, height, width, depth, dtype=torch.float64)
    common = noise(depth)
    previous = noise(height, width, depth)
    for n in range(frames):
        share = torch.rand(height, width, 3, 1, generator=generator, dtype=torch.float64)
        smooth = 0.5 * (previous + previous.roll(1, 0)) + 0.5 * (previous.roll(1, 1) - previous.roll(-1, 1))
        blend = share[:, :, 0] * previous + share[:, :, 1] * smooth + 0.4 * common
        fresh = noise(height, width, depth) * (0.3 + share[:, :, 2])
        previous = redundancy * blend + (1.0 - redundancy) * fresh
        if redundancy >= 1.0:
            previous = common.expand(height, width, depth).clone()
        previous = previous * (math.sqrt(depth) / previous.norm(dim=-1, keepdim=True).clamp_min(1e-12))
        out[n] = previous
    return (out * scale).to(dtype)


HOSTILE = ("zeros", "nan", "inf", "denormal", "tiny", "huge", "equal", "copied", "opposite", "bad_frame", "zero_frame")


def spoil(x: torch.Tensor, kinds: list[str], seed: int = 0) -> torch.Tensor:
    """A copy of x with some of its tokens replaced by hostile ones of the given kinds."""
    x = x.clone()
    frames, height, width, depth = x.shape
    if not x.numel():
        return x
    generator = torch.Generator().manual_seed(seed)

    def chance(p: float) -> torch.Tensor:
        return torch.rand(frames, height, width, generator=generator) < p

    def pick(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    for kind in kinds:
        where = chance(0.25)
        d = pick(depth)
        if kind == "zeros":
            x[where] = 0.0
        elif kind == "nan":
            x[..., d] = torch.where(where, torch.nan, x[..., d])
        elif kind == "inf":
            x[..., d] = torch.where(where, torch.where(chance(0.5), torch.inf, -torch.inf).to(x.dtype), x[..., d])
        elif kind == "denormal":
            x[where] = x[where].sign() * (torch.finfo(x.dtype).tiny / 4)
        elif kind == "tiny":  # norms around the eps of the cosine
            x[where] = (x[where].double() * 10.0 ** (-7 - 3 * torch.rand((), generator=generator).item())).to(x.dtype)
        elif kind == "huge":
            x = _huge(x, where, generator)
        elif kind == "equal":
            x[where] = x[0, 0, 0].clone()
        elif kind == "copied":  # each token equals its predecessor, up to a power of two
            for n in range(1, frames):
                x[n][where[n]] = x[n - 1][where[n]] * 2 ** pick(3)
        elif kind == "opposite":
            for n in range(1, frames):
                x[n][where[n]] = -x[n - 1][where[n]]
        elif kind == "bad_frame":
            x[pick(frames), :, :, d] = torch.nan
        elif kind == "zero_frame":
            x[pick(frames)] = 0.0
        else:
            raise AssertionError(kind)
    return _off_the_edge(x)


def _huge(x: torch.Tensor, where: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if x.dtype == torch.float16:
        return torch.where(where[..., None], x.sign() * 6e4, x)
    power = 18 + 12 * torch.rand(x.shape[:3], generator=generator, dtype=torch.float64)
    unit = x.double() / x.double().norm(dim=-1, keepdim=True).clamp_min(1e-300)
    return torch.where(where[..., None], (unit * 10.0 ** power[..., None]).to(x.dtype), x)


def on_the_edge(x: torch.Tensor) -> torch.Tensor:
    """(T, H, W) bool: tokens of the one length at which rounding decides whether a squared norm overflows."""
    squared = x.double().square().sum(-1)
    return (squared > FP32_MAX / 4) & (squared < FP32_MAX * 4)


def _off_the_edge(x: torch.Tensor) -> torch.Tensor:
    return torch.where(on_the_edge(x)[..., None], x * 0.125, x)


LAYOUTS = (
    "contiguous",
    "width_first",
    "features_first",
    "time_last",
    "strided",
    "strided_features",
    "unaligned",
    "expanded_time",
    "expanded_height",
    "expanded_features",
)


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """x in other memory; the expanded layouts repeat a part of it, so they change its values too."""
    frames, height, width, depth = x.shape
    if layout == "contiguous":
        return x.contiguous()
    if layout == "width_first":
        return x.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    if layout == "features_first":
        return x.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    if layout == "time_last":
        return x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    if layout == "strided":
        space = x.new_full((2 * frames, height + 1, 2 * width, depth + 3), torch.nan)
        view = space[::2, 1:, ::2, :depth]
        return view.copy_(x)
    if layout == "strided_features":
        space = x.new_full((frames, height, width, 2 * depth), torch.nan)
        return space[..., ::2].copy_(x)
    if layout == "unaligned":
        space = x.new_full((x.numel() + 1,), torch.nan)
        return space[1:].view(x.shape).copy_(x)
    if layout == "expanded_time":
        return x[:1].expand(frames, -1, -1, -1) if frames else x
    if layout == "expanded_height":
        return x[:, :1].expand(-1, height, -1, -1)
    if layout == "expanded_features":
        return x[..., :1].expand(-1, -1, -1, depth)
    raise AssertionError(layout)


def tensor_mask(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A random bool mask (H, W)."""
    return torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < 0.5


@st.composite
def options(draw: st.DrawFn, height: int, width: int, *, clip: bool = True) -> dict[str, Any]:
    """Keywords of PruneConfig and of the oracle, in any combination that is allowed."""
    threshold = st.one_of(st.none(), st.sampled_from([-1.0, 0.0, 0.2, 0.5, 0.9, 1.0]), st.floats(-1, 1, width=32))
    mask = draw(st.sampled_from(MASKS))
    chosen: dict[str, Any] = {
        "temporal_threshold": draw(threshold),
        "spatial_threshold": draw(threshold),
        "mask": tensor_mask(height, width, draw(st.integers(0, 9))) if mask == "tensor" else mask,
        "neighbors": draw(st.sampled_from(["grid", "survivors"])),
        "reference": draw(st.sampled_from(["previous", "last_kept"])),
        "keyframe_interval": draw(st.sampled_from([None, None, 1, 2, 3])),
        "carrier": draw(st.sampled_from(["all", "kept", None])),
    }
    area = height * width
    budget = draw(st.sampled_from([None, None, "keep", "clip", "max"]))
    if budget == "clip" and clip and chosen["reference"] == "previous":
        chosen |= {"keep_tokens": draw(st.integers(0, 3 * area)), "scope": "clip"}
    elif budget == "keep":
        chosen |= {"keep_tokens": draw(st.integers(0, area + 1))}
    elif budget == "max":
        chosen |= {"max_tokens": draw(st.integers(0, area + 1))}
    return chosen


GRIDS = ((1, 1), (1, 2), (1, 5), (4, 1), (2, 2), (2, 3), (3, 3), (5, 4))
LARGE_GRIDS = ((9, 17), (33, 5), (8, 8), (16, 9))
DEPTHS = (1, 7, 63, 64, 100, 257)


def grids(*, large: bool = True) -> st.SearchStrategy[tuple[int, int]]:
    """Grids down to 1 x 1 and, unless the kernels are interpreted, larger than a tile."""
    return st.sampled_from(GRIDS + (LARGE_GRIDS if large and not INTERPRETED else ()))


def depths() -> st.SearchStrategy[int]:
    """Feature sizes on both sides of the blocks that the kernels read."""
    return st.sampled_from((1, 7, 64) if INTERPRETED else DEPTHS)


@st.composite
def features(draw: st.DrawFn, grid: tuple[int, int], depth: int, *, frames: tuple[int, int] = (0, 4)) -> torch.Tensor:
    """Contiguous tokens of one stream, some of them hostile."""
    x = field(
        (draw(st.integers(frames[0], min(frames[1], 3) if INTERPRETED else frames[1])), *grid, depth),
        redundancy=draw(st.sampled_from([0.0, 0.3, 0.6, 0.8, 0.95, 1.0])),
        seed=draw(st.integers(0, 2**16)),
        dtype=draw(st.sampled_from(DTYPES)),
        scale=draw(st.sampled_from([1.0, 1.0, 0.01, 30.0])),
    )
    kinds = draw(st.lists(st.sampled_from(HOSTILE), max_size=3, unique=True))
    return spoil(x, kinds, draw(st.integers(0, 2**16)))
