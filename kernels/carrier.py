"""The semantic carrier: the mean of each frame's tokens, from the tiles' sums or from the tokens themselves."""

import triton
import triton.language as tl

from .decide import total
from .similarity import SQUARED_NORM
from .streams import (
    FRAME,
    HEIGHT,
    SEGMENT,
    START,
    STRIDE_H,
    STRIDE_T,
    STRIDE_W,
    TILE,
    TOKEN,
    WIDTH,
    X,
    aligned_entry,
    entry,
    find_stream,
    pointer,
    size,
)

WIDE = tl.constexpr(1024)  # tokens counted at once
GROUPS = tl.constexpr(4)  # groups of tiles added at once


@triton.jit
def _mean(
    frame_ptr, sums_ptr, dots_ptr, keep_ptr, frame, first, sums, per_group, kept, area, width, tokens, D, d,
    stride_h, stride_w, KEPT: tl.constexpr, SLICES: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """(BLOCK,) mean over a frame's finite tokens, with KEPT over its `kept` kept ones (if any), of the features d.

    Reads 4 bytes a feature for each of the frame's `sums`, which begin at the `first`, where all tokens count, else the
    features of those that do. The order of the sum depends on the grid alone: the sums of GROUP tiles one by one, be it
    here (`per_group` sums) or before (one sum), then those of the groups.
    """
    finite = tl.zeros((WIDE,), tl.int32)
    for offset in range(0, area, WIDE):
        t = offset + tl.arange(0, WIDE)
        squared = total(dots_ptr, SQUARED_NORM, frame + t, t < area, tokens, SLICES)
        finite += ((t < area) & (squared == squared)).to(tl.int32)
    count = tl.sum(finite, axis=0)
    only_kept = KEPT and kept > 0
    mean = tl.zeros(d.shape, tl.float32)
    if (count == area) & (KEPT == 0):
        for offset in range(0, tl.cdiv(sums, per_group), GROUPS):
            m = (offset + tl.arange(0, GROUPS)) * per_group
            group = tl.zeros((GROUPS, d.shape[0]), tl.float32)
            for k in tl.static_range(GROUP):
                at = (first + m + k).to(tl.int64)[:, None] * D + d[None, :]
                there = m + k < tl.where(k < per_group, sums, 0)
                group += tl.load(sums_ptr + at, there[:, None] & (d < D)[None, :], other=0.0)
            mean += tl.sum(group, axis=0)
    else:
        for offset in range(0, area, ROWS):
            t = offset + tl.arange(0, ROWS)
            squared = total(dots_ptr, SQUARED_NORM, frame + t, t < area, tokens, SLICES)
            chosen = (t < area) & (squared == squared)
            if only_kept:
                chosen &= tl.load(keep_ptr + frame + t, t < area, other=0) != 0
            at = (t // width).to(tl.int64) * stride_h + (t % width).to(tl.int64) * stride_w
            value = tl.load(frame_ptr + at[:, None] + d[None, :], chosen[:, None] & (d < D)[None, :], other=0.0)
            mean += tl.sum(value.to(tl.float32), axis=0)
    # rounded to the nearest, which a plain division is not: the mean of equal tokens is that token
    return tl.div_rn(mean, tl.maximum(tl.where(only_kept, kept, count), 1).to(tl.float32))


@triton.jit
def carrier_block(
    x_ptr, sums_ptr, dots_ptr, keep_ptr, counts_ptr, carriers_ptr, table_ptr, program, height, width, start,
    tiles_per_program, tokens, D, stride_t, stride_h, stride_w, STREAMS: tl.constexpr, ALIGNED: tl.constexpr,
    KEPT: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr, SLICES: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Computes BLOCK_D features of one frame's carrier. Reads as `_mean`, writes the features.

    `program` counts frames x blocks of features, the block fastest.
    """
    blocks = tl.cdiv(D, BLOCK_D)
    segment = program // blocks
    d = program % blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    b = find_stream(table_ptr, segment, SEGMENT, STREAMS)
    x_ptr = pointer(table_ptr, b, X, x_ptr, STREAMS, ALIGNED)
    stride_t = aligned_entry(table_ptr, b, STRIDE_T, stride_t, STREAMS, ALIGNED)
    stride_h = aligned_entry(table_ptr, b, STRIDE_H, stride_h, STREAMS, ALIGNED)
    stride_w = aligned_entry(table_ptr, b, STRIDE_W, stride_w, STREAMS, ALIGNED)
    height = size(table_ptr, b, HEIGHT, height, STREAMS)
    width = size(table_ptr, b, WIDTH, width, STREAMS)
    n = size(table_ptr, b, START, start, STREAMS) + segment - size(table_ptr, b, SEGMENT, 0, STREAMS)
    n = tl.cast(n, tl.int64)

    area = height * width
    sums = tl.cdiv(tl.cdiv(height, TILE_H) * tl.cdiv(width, TILE_W), tiles_per_program)
    out = size(table_ptr, b, FRAME, 0, STREAMS) + n
    kept = 0
    if KEPT:
        kept = tl.load(counts_ptr + out)
    mean = _mean(
        x_ptr + n * stride_t, sums_ptr, dots_ptr, keep_ptr, entry(table_ptr, b, TOKEN, 0, STREAMS) + n * area,
        entry(table_ptr, b, TILE, 0, STREAMS) + n * sums, sums, GROUP // tiles_per_program, kept, area, width, tokens,
        D, d, stride_h, stride_w, KEPT, SLICES, GROUP, ROWS,
    )  # fmt: skip
    if carriers_ptr.dtype.element_ty != tl.float32:  # said aloud, as the interpreter would cut off
        mean = mean.to(carriers_ptr.dtype.element_ty, fp_downcast_rounding="rtne")
    tl.store(carriers_ptr + out * D + d, mean, mask=d < D)


@triton.jit(do_not_specialize=["height", "width", "start", "tokens"])
def kept_carrier_kernel(
    x_ptr,  # (T, H, W, D)
    dots_ptr,  # (4, SLICES, tokens) float32
    keep_ptr,  # (tokens,) uint8
    counts_ptr,  # (frames,) int32
    carriers_ptr,  # out (frames, D)
    table_ptr,  # (STREAMS, COLUMNS) int64
    height,
    width,
    start,
    tokens,
    D,
    stride_t,
    stride_h,
    stride_w,
    STREAMS: tl.constexpr,
    ALIGNED: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    SLICES: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Computes each frame's mean over its kept tokens, over its finite ones where none is kept.

    Reads the features of those tokens, writes D features a frame. Grid: frames x blocks of D, the block fastest.
    Runs after the compaction kernel, which decided what is kept.
    """
    carrier_block(
        x_ptr, dots_ptr, dots_ptr, keep_ptr, counts_ptr, carriers_ptr, table_ptr, tl.program_id(0), height, width,
        start, 1, tl.cast(tokens, tl.int64), D, stride_t, stride_h, stride_w, STREAMS, ALIGNED, True, TILE_H, TILE_W,
        SLICES, 1, BLOCK_D, ROWS,
    )  # fmt: skip
