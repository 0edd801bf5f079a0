"""Decides (unless a budget already did), ranks the kept tokens, writes them in order, and averages the carriers."""

import triton
import triton.language as tl

from .carrier import carrier_block
from .decide import DROP, decide_block, total
from .similarity import SQUARED_NORM
from .streams import (
    BLOCK,
    CAPACITY,
    FRAME,
    FRAMES,
    HEIGHT,
    LENGTH,
    NEXT_NORMS,
    NEXT_REFERENCE,
    NORMS,
    ROW,
    SEGMENT,
    START,
    STOP,
    STRIDE_H,
    STRIDE_T,
    STRIDE_W,
    TOKEN,
    WIDTH,
    X,
    aligned_entry,
    entry,
    find_stream,
    given,
    pointer,
    size,
)

WINDOW = tl.constexpr(256)


@triton.jit
def _published(words_ptr, count):
    """The sum of `count` values that other programs publish as value + 1, once all of them are there.

    Every program awaited has a lower ticket, so it is running or done and waits for none of a higher one.
    """
    found = 0
    for offset in range(0, count, WINDOW):
        at = offset + tl.arange(0, WINDOW)
        words = tl.load(words_ptr + at, at < count, other=1, volatile=True)
        while tl.min(words, axis=0) == 0:
            words = tl.load(words_ptr + at, at < count, other=1, volatile=True)
        found += tl.sum(words, axis=0) - WINDOW
    return found


@triton.jit
def _copy_rows(
    frame_ptr, tokens_ptr, next_reference_ptr, t, rank, kept, width, D, first, last, stride_h, stride_w,
    LAST_KEPT: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Writes the kept tokens t, features first to last, to their rows, with LAST_KEPT to the next reference as well."""
    rows = (t // width).to(tl.int64) * stride_h + (t % width).to(tl.int64) * stride_w
    for offset in range(first, last, BLOCK_D):
        d = offset + tl.arange(0, BLOCK_D)
        mask = kept[:, None] & (d < last)[None, :]
        raw = tl.load(frame_ptr + (rows[:, None] + d[None, :]), mask)
        tl.store(tokens_ptr + (rank[:, None] * D + d[None, :]), raw, mask)
        if LAST_KEPT:
            tl.store(next_reference_ptr + (t.to(tl.int64)[:, None] * D + d[None, :]), raw, mask)


@triton.jit
def _prune_block(
    x_ptr, dots_ptr, norms_ptr, frames_ptr, mask_ptr, tokens_ptr, indices_ptr, decision_ptr, keep_ptr, counts_ptr,
    cu_counts_ptr, temporal_ptr, spatial_ptr, nonfinite_ptr, overflow_ptr, next_reference_ptr, next_norms_ptr,
    next_frames_ptr, sync_ptr, table_ptr, length, height, width, start, stop, capacity, has_norms, has_frames,
    blocks_total, tokens, D, stride_t, stride_h, stride_w, temporal_threshold, spatial_threshold, keyframe_interval,
    STREAMS: tl.constexpr, ALIGNED: tl.constexpr, DECIDE: tl.constexpr, LAST_KEPT: tl.constexpr, MASK: tl.constexpr,
    KEYFRAMES: tl.constexpr, SURVIVORS: tl.constexpr, SLICES: tl.constexpr, BLOCK_T: tl.constexpr,
    PARTS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Decides, ranks and copies BLOCK_T tokens of one frame, one of PARTS shares of D; see `compact_kernel`."""
    ticket = tl.atomic_add(sync_ptr, 1)
    part = ticket % PARTS
    block = ticket // PARTS
    b = find_stream(table_ptr, block, BLOCK, STREAMS)
    x_ptr = pointer(table_ptr, b, X, x_ptr, STREAMS, ALIGNED)
    has_norms = given(table_ptr, b, NORMS, has_norms, STREAMS)
    has_frames = given(table_ptr, b, FRAMES, has_frames, STREAMS)
    norms_ptr = pointer(table_ptr, b, NORMS, norms_ptr, STREAMS, False)
    frames_ptr = pointer(table_ptr, b, FRAMES, frames_ptr, STREAMS, False)
    next_reference_ptr = pointer(table_ptr, b, NEXT_REFERENCE, next_reference_ptr, STREAMS, ALIGNED)
    next_norms_ptr = pointer(table_ptr, b, NEXT_NORMS, next_norms_ptr, STREAMS, False)
    stride_t = aligned_entry(table_ptr, b, STRIDE_T, stride_t, STREAMS, ALIGNED)
    stride_h = aligned_entry(table_ptr, b, STRIDE_H, stride_h, STREAMS, ALIGNED)
    stride_w = aligned_entry(table_ptr, b, STRIDE_W, stride_w, STREAMS, ALIGNED)
    length = size(table_ptr, b, LENGTH, length, STREAMS)
    height = size(table_ptr, b, HEIGHT, height, STREAMS)
    width = size(table_ptr, b, WIDTH, width, STREAMS)
    start = size(table_ptr, b, START, start, STREAMS)
    stop = size(table_ptr, b, STOP, stop, STREAMS)
    row = entry(table_ptr, b, ROW, 0, STREAMS)
    capacity = entry(table_ptr, b, CAPACITY, capacity, STREAMS)
    first_block = size(table_ptr, b, BLOCK, 0, STREAMS)
    first_frame = size(table_ptr, b, FRAME, 0, STREAMS)
    segment = size(table_ptr, b, SEGMENT, 0, STREAMS)

    area = height * width
    blocks = tl.cdiv(area, BLOCK_T)
    step = (block - first_block) // blocks  # frames of this launch before this one
    k = (block - first_block) % blocks
    n = start + step
    t = tl.cast(k * BLOCK_T, tl.int32) + tl.arange(0, BLOCK_T)
    inside = t < area
    frame = entry(table_ptr, b, TOKEN, 0, STREAMS) + n * tl.cast(area, tl.int64)
    seen = tl.load(frames_ptr, has_frames != 0, other=0)
    if DECIDE:
        decision, temporal, spatial, squared, _ = decide_block(
            dots_ptr, norms_ptr, has_norms, mask_ptr, t, step, seen + n, frame, height, width, tokens,
            temporal_threshold, spatial_threshold, keyframe_interval, MASK, KEYFRAMES, SURVIVORS, SLICES,
        )  # fmt: skip
        if part == 0:
            tl.store(temporal_ptr + frame + t, temporal, mask=inside)
            tl.store(spatial_ptr + frame + t, spatial, mask=inside)
    else:
        decision = tl.load(decision_ptr + frame + t, inside, other=DROP).to(tl.int32)
        squared = total(dots_ptr, SQUARED_NORM, frame + t, inside, tokens, SLICES)

    kept = (decision != DROP).to(tl.int32)
    own = tl.sum(kept, axis=0)
    blocks_ptr = sync_ptr + 1 + first_block + step * blocks
    frames_sync_ptr = sync_ptr + 1 + blocks_total + segment
    if part == 0:
        tl.atomic_xchg(blocks_ptr + k, own + 1)
    before = _published(blocks_ptr, k)
    if (part == 0) & (k == blocks - 1):
        tl.atomic_xchg(frames_sync_ptr + step, before + own + 1)
    earlier = _published(frames_sync_ptr, step)
    cu_ptr = cu_counts_ptr + first_frame + b
    if start > 0:
        earlier += tl.load(cu_ptr + start)
    rank = earlier + before + tl.cumsum(kept, axis=0) - kept
    fits = (kept > 0) & (rank < capacity)

    if part == 0:
        tl.store(keep_ptr + frame + t, fits.to(tl.uint8), mask=inside)
        tl.store(indices_ptr + row + rank, n * tl.cast(area, tl.int64) + t, mask=fits)
        bad = tl.sum((inside & (squared != squared)).to(tl.int64), axis=0)
        if bad > 0:
            tl.atomic_add(nonfinite_ptr + b, bad)
        if LAST_KEPT:
            old = tl.load(norms_ptr + t, t < tl.where(has_norms != 0, area, 0), other=float("nan"))
            tl.store(next_norms_ptr + t, tl.where(fits, squared, old), mask=inside)
        elif n == length - 1:
            tl.store(next_norms_ptr + t, squared, mask=inside)
        if k == blocks - 1:
            end = earlier + before + own
            tl.store(counts_ptr + first_frame + n, tl.minimum(end, capacity) - tl.minimum(earlier, capacity))
            tl.store(cu_ptr + n + 1, tl.minimum(end, capacity))
            if n == 0:
                tl.store(cu_ptr, 0)
            if n == length - 1:
                tl.store(next_frames_ptr + b, seen + length)
            if (n == stop - 1) & ((start == 0) | (end > capacity)):
                tl.store(overflow_ptr + b, (end > capacity).to(tl.uint8))
    if own > 0:
        share = tl.cdiv(tl.cdiv(D, PARTS), BLOCK_D) * BLOCK_D
        _copy_rows(
            x_ptr + tl.cast(n, tl.int64) * stride_t, tokens_ptr, next_reference_ptr, t,
            (row + rank).to(tl.int64), fits, width, D, part * share, tl.minimum(part * share + share, D),
            stride_h, stride_w, LAST_KEPT, BLOCK_D,
        )  # fmt: skip


@triton.jit(
    do_not_specialize=[
        "height",
        "width",
        "length",
        "start",
        "stop",
        "capacity",
        "has_norms",
        "has_frames",
        "ticket_count",
        "blocks_total",
        "tiles_per_program",
        "tokens",
        "temporal_threshold",
        "spatial_threshold",
        "keyframe_interval",
    ]
)
def compact_kernel(
    x_ptr,  # (T, H, W, D)
    dots_ptr,  # (4, SLICES, tokens) float32
    sums_ptr,  # (groups of tiles of all frames, D) float32
    norms_ptr,  # (H, W) float32 of the reference, NaN without one
    frames_ptr,  # () int64
    mask_ptr,  # (H, W) uint8
    tokens_ptr,  # out (rows, D)
    indices_ptr,  # out (rows,) int64
    decision_ptr,  # (tokens,) uint8, decided by a budget; unused with DECIDE
    keep_ptr,  # out (tokens,) uint8
    counts_ptr,  # out (frames,) int32
    cu_counts_ptr,  # out (frames + streams,) int32; in as well where start > 0
    carriers_ptr,  # out (frames, D)
    temporal_ptr,  # out (tokens,) float32
    spatial_ptr,  # out (tokens,) float32
    nonfinite_ptr,  # out (streams,) int64, zeroed before
    overflow_ptr,  # out (streams,) uint8
    next_reference_ptr,  # out (H, W, D)
    next_norms_ptr,  # out (H, W) float32
    next_frames_ptr,  # out (streams,) int64
    sync_ptr,  # (1 + blocks + frames,) int32, zeroed before: tickets, sums of blocks, sums of frames
    table_ptr,  # (STREAMS, COLUMNS) int64
    length,
    height,
    width,
    start,
    stop,
    capacity,
    has_norms,
    has_frames,
    ticket_count,
    blocks_total,
    tiles_per_program,
    tokens,
    D,
    stride_t,
    stride_h,
    stride_w,
    temporal_threshold,
    spatial_threshold,
    keyframe_interval,
    STREAMS: tl.constexpr,
    ALIGNED: tl.constexpr,
    DECIDE: tl.constexpr,
    LAST_KEPT: tl.constexpr,
    MASK: tl.constexpr,
    KEYFRAMES: tl.constexpr,
    SURVIVORS: tl.constexpr,
    SLICES: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_T: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    CARRIER_D: tl.constexpr,
    CARRIER_ROWS: tl.constexpr,
):
    """Computes decisions, ranks, counts and carriers, and copies each kept token to its rank.

    Reads what `decide_block` does and the kept tokens; writes those, 9 bytes a token of similarities and decision, and
    D features a frame. A block's rank is the sum of all blocks before it: each publishes its count first and then
    waits for those of lower tickets, so integers alone pass between programs and the order of arrival is not seen.
    Grid: ticket_count programs for blocks of BLOCK_T tokens x PARTS of D (each decides again; the first publishes),
    then frames x blocks of CARRIER_D features. Assumes that the similarity kernel is complete and zeroed sync_ptr.
    """
    tokens = tl.cast(tokens, tl.int64)
    if tl.program_id(0) >= ticket_count:
        carrier_block(
            x_ptr, sums_ptr, dots_ptr, keep_ptr, counts_ptr, carriers_ptr, table_ptr, tl.program_id(0) - ticket_count,
            height, width, start, tiles_per_program, tokens, D, stride_t, stride_h, stride_w, STREAMS, ALIGNED, False,
            TILE_H, TILE_W, SLICES, GROUP, CARRIER_D, CARRIER_ROWS,
        )  # fmt: skip
    else:
        _prune_block(
            x_ptr, dots_ptr, norms_ptr, frames_ptr, mask_ptr, tokens_ptr, indices_ptr, decision_ptr, keep_ptr,
            counts_ptr, cu_counts_ptr, temporal_ptr, spatial_ptr, nonfinite_ptr, overflow_ptr, next_reference_ptr,
            next_norms_ptr, next_frames_ptr, sync_ptr, table_ptr, length, height, width, start, stop, capacity,
            has_norms, has_frames, blocks_total, tokens, D, stride_t, stride_h, stride_w, temporal_threshold,
            spatial_threshold, keyframe_interval, STREAMS, ALIGNED, DECIDE, LAST_KEPT, MASK, KEYFRAMES, SURVIVORS,
            SLICES, BLOCK_T, PARTS, BLOCK_D,
        )  # fmt: skip
