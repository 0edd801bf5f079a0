"""From dot products to decisions: similarities, candidates, thresholds."""

import triton
import triton.language as tl

from .similarity import DOWN, PREVIOUS, RIGHT, SQUARED_NORM
from .streams import (
    BLOCK,
    FRAMES,
    HEIGHT,
    NORMS,
    START,
    TOKEN,
    WIDTH,
    entry,
    find_stream,
    given,
    pointer,
    size,
)

# Values of MASK, the names of PruneConfig.mask in this order.
MASK_NAMES = ("none", "checkerboard", "checkerboard_even", "alternate", "rows", "columns", "all", "tensor")
NO_MASK, ODD, EVEN, ALTERNATE, ROWS, COLUMNS_, ALL, TENSOR = (tl.constexpr(m) for m in range(8))
# Values of a decision before a budget is applied.
DROP, KEEP, KEYFRAME = (tl.constexpr(v) for v in range(3))
EPS = tl.constexpr(1e-8)


@triton.jit
def total(dots_ptr, quantity: tl.constexpr, index, mask, tokens, SLICES: tl.constexpr):
    """(N,) one of the four sums over D of tokens `index`, its slices added in order. Reads 4 * SLICES bytes a token."""
    at = dots_ptr + quantity * SLICES * tokens + index
    value = tl.load(at, mask, other=0.0)
    for s in range(1, SLICES):
        value += tl.load(at + s * tokens, mask, other=0.0)
    return value


@triton.jit
def cosine(dots, squared_a, squared_b):
    """(N,) a.b / (max(|a|, eps) * max(|b|, eps)) in [-1, 1]; NaN if a or b is not finite, 0 if a norm overflows."""
    norm_a = tl.maximum(tl.sqrt(squared_a), EPS)
    norm_b = tl.maximum(tl.sqrt(squared_b), EPS)
    cos = tl.minimum(tl.maximum(dots / norm_a / norm_b, -1.0), 1.0)
    cos = tl.where((squared_a == float("inf")) | (squared_b == float("inf")), 0.0, cos)
    return tl.where((squared_a != squared_a) | (squared_b != squared_b), float("nan"), cos)


@triton.jit
def temporal_of(
    dots_ptr, norms_ptr, has_norms, squared, t, mask, step, frame, area, tokens, SLICES: tl.constexpr
):  # fmt: skip
    """(N,) cosine to the reference of tokens t, of squared norms `squared`; NaN where there is none.

    Reads 8 * SLICES bytes a token. `frame` is the packed index of the frame's first token, `step` counts the frames of
    the launch before it: the first is compared with the reference.
    """
    if step > 0:
        before = total(dots_ptr, SQUARED_NORM, frame - area + t, mask, tokens, SLICES)
    else:
        there = mask & (t < tl.where(has_norms != 0, area, 0))
        before = tl.load(norms_ptr + t, there, other=float("nan"))
    return cosine(total(dots_ptr, PREVIOUS, frame + t, mask, tokens, SLICES), squared, before)


@triton.jit
def candidates(mask_ptr, i, j, t, mask, number, MASK: tl.constexpr):
    """(N,) which tokens the spatial stage may drop, in the `number`-th frame of the stream."""
    if MASK == ODD:
        chosen = ((i + j) & 1) == 1
    elif MASK == EVEN:
        chosen = ((i + j) & 1) == 0
    elif MASK == ALTERNATE:
        chosen = ((i + j + number) & 1) == 1
    elif MASK == ROWS:
        chosen = (i & 1) == 1
    elif MASK == COLUMNS_:
        chosen = (j & 1) == 1
    elif MASK == TENSOR:
        chosen = tl.load(mask_ptr + t, mask, other=0) != 0
    else:
        chosen = i >= 0
    return chosen


@triton.jit
def _edge(
    dots_ptr, norms_ptr, has_norms, squared, dots, neighbor, exists, step, frame, area, tokens, threshold,
    SURVIVORS: tl.constexpr, SLICES: tl.constexpr,
):  # fmt: skip
    """(N,) cosine to the `neighbor` tokens of dot products `dots`; -inf where one does not count.

    Reads 4 * SLICES bytes a token, with SURVIVORS 8 more a slice for the neighbour's own temporal similarity.
    """
    other = total(dots_ptr, SQUARED_NORM, frame + neighbor, exists, tokens, SLICES)
    cos = cosine(dots, squared, other)
    if SURVIVORS:
        its = temporal_of(dots_ptr, norms_ptr, has_norms, other, neighbor, exists, step, frame, area, tokens, SLICES)
        exists &= (its > threshold) == 0
    return tl.where(exists & (cos == cos), cos, float("-inf"))


@triton.jit
def decide_block(
    dots_ptr, norms_ptr, has_norms, mask_ptr, t, step, number, frame, height, width, tokens,
    temporal_threshold, spatial_threshold, keyframe_interval, MASK: tl.constexpr, KEYFRAMES: tl.constexpr,
    SURVIVORS: tl.constexpr, SLICES: tl.constexpr,
):  # fmt: skip
    """Computes (decision, temporal, spatial, squared norm, candidate), each (N,), of the tokens t of one frame.

    decision = keep iff finite and not (s_t > temporal_threshold or candidate and s_s > spatial_threshold).
    Reads at most 44 * SLICES bytes a token (76 with SURVIVORS), from the cache: `dots` was just written.
    Assumes that the whole launch of the similarity kernel is complete.
    """
    area = height * width
    inside = t < area
    i = t // width
    j = t % width
    keyframe = 0
    if KEYFRAMES:
        keyframe = (number % keyframe_interval == 0).to(tl.int32)
    temporal_threshold = tl.where(keyframe > 0, 2.0, temporal_threshold)

    squared = total(dots_ptr, SQUARED_NORM, frame + t, inside, tokens, SLICES)
    finite = squared == squared
    temporal = temporal_of(dots_ptr, norms_ptr, has_norms, squared, t, inside, step, frame, area, tokens, SLICES)
    spatial = tl.full(t.shape, float("nan"), tl.float32)
    if MASK != NO_MASK:
        best = tl.full(t.shape, float("-inf"), tl.float32)
        for side in tl.static_range(4):
            if side == 0:
                exists = inside & (j + 1 < width)
                neighbor = t + 1
                dots = total(dots_ptr, RIGHT, frame + t, exists, tokens, SLICES)
            elif side == 1:
                exists = inside & (j > 0)
                neighbor = t - 1
                dots = total(dots_ptr, RIGHT, frame + neighbor, exists, tokens, SLICES)
            elif side == 2:
                exists = inside & (i + 1 < height)
                neighbor = t + width
                dots = total(dots_ptr, DOWN, frame + t, exists, tokens, SLICES)
            else:
                exists = inside & (i > 0)
                neighbor = t - width
                dots = total(dots_ptr, DOWN, frame + neighbor, exists, tokens, SLICES)
            cos = _edge(
                dots_ptr, norms_ptr, has_norms, squared, dots, neighbor, exists, step, frame, area, tokens,
                temporal_threshold, SURVIVORS, SLICES,
            )  # fmt: skip
            best = tl.maximum(best, cos)
        spatial = tl.where(best == float("-inf"), float("nan"), best)

    candidate = candidates(mask_ptr, i, j, t, inside, number, MASK)
    redundant = temporal > temporal_threshold
    if MASK != NO_MASK:
        redundant |= candidate & (spatial > spatial_threshold)
    decision = tl.where(redundant, DROP, KEEP)
    decision = tl.where(keyframe > 0, KEYFRAME, decision)
    decision = tl.where(finite & inside, decision, DROP)
    return decision, temporal, spatial, squared, candidate


@triton.jit(
    do_not_specialize=[
        "height",
        "width",
        "start",
        "has_norms",
        "has_frames",
        "tokens",
        "temporal_threshold",
        "spatial_threshold",
        "keyframe_interval",
    ]
)
def decide_kernel(
    dots_ptr,  # (4, SLICES, tokens) float32
    norms_ptr,  # (H, W) float32 of the reference, NaN without one
    frames_ptr,  # () int64
    mask_ptr,  # (H, W) uint8
    decision_ptr,  # out (tokens,) uint8: DROP, KEEP or KEYFRAME
    redundancy_ptr,  # out (tokens,) float32
    temporal_ptr,  # out (tokens,) float32
    spatial_ptr,  # out (tokens,) float32
    table_ptr,  # (STREAMS, COLUMNS) int64
    height,
    width,
    start,
    has_norms,
    has_frames,
    tokens,
    temporal_threshold,
    spatial_threshold,
    keyframe_interval,
    STREAMS: tl.constexpr,
    MASK: tl.constexpr,
    KEYFRAMES: tl.constexpr,
    SURVIVORS: tl.constexpr,
    SLICES: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Computes each token's decision by thresholds and its redundancy, that of `reference.redundancies`.

    Reads as `decide_block`, writes 13 bytes a token. Grid: blocks of BLOCK_T tokens; no block holds two frames.
    Runs only ahead of the selection of a budget; otherwise the compaction kernel decides for itself.
    """
    block = tl.program_id(0)
    b = find_stream(table_ptr, block, BLOCK, STREAMS)
    has_norms = given(table_ptr, b, NORMS, has_norms, STREAMS)
    has_frames = given(table_ptr, b, FRAMES, has_frames, STREAMS)
    norms_ptr = pointer(table_ptr, b, NORMS, norms_ptr, STREAMS, False)
    frames_ptr = pointer(table_ptr, b, FRAMES, frames_ptr, STREAMS, False)
    height = size(table_ptr, b, HEIGHT, height, STREAMS)
    width = size(table_ptr, b, WIDTH, width, STREAMS)
    start = size(table_ptr, b, START, start, STREAMS)
    block -= size(table_ptr, b, BLOCK, 0, STREAMS)
    tokens = tl.cast(tokens, tl.int64)

    area = height * width
    blocks = tl.cdiv(area, BLOCK_T)
    step = block // blocks
    n = start + step
    t = block % blocks * BLOCK_T + tl.arange(0, BLOCK_T)
    frame = entry(table_ptr, b, TOKEN, 0, STREAMS) + n * tl.cast(area, tl.int64)
    decision, temporal, spatial, _, candidate = decide_block(
        dots_ptr, norms_ptr, has_norms, mask_ptr, t, step, tl.load(frames_ptr, has_frames != 0, other=0) + n, frame,
        height, width, tokens,
        temporal_threshold, spatial_threshold, keyframe_interval, MASK, KEYFRAMES, SURVIVORS, SLICES,
    )  # fmt: skip
    known = temporal == temporal
    redundancy = tl.where(known, temporal, -1.0)
    if MASK != NO_MASK:
        beside = tl.where(spatial == spatial, spatial, -1.0)
        alone = tl.where(known, -1.0, (beside - 1.0) * 0.5)
        redundancy = tl.maximum(redundancy, tl.where(candidate, beside, alone))
    tl.store(decision_ptr + frame + t, decision.to(tl.uint8), mask=t < area)
    tl.store(redundancy_ptr + frame + t, redundancy, mask=t < area)
    tl.store(temporal_ptr + frame + t, temporal, mask=t < area)
    tl.store(spatial_ptr + frame + t, spatial, mask=t < area)
