"""The one pass over the features: squared norms, dot products, per-tile sums for the carrier, the next reference."""

import triton
import triton.language as tl

from .streams import (
    HEIGHT,
    LENGTH,
    NEXT_REFERENCE,
    PROGRAM,
    REFERENCE,
    START,
    STOP,
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
    given,
    pointer,
    size,
)

# What `dots` holds, in this order.
SQUARED_NORM, PREVIOUS, RIGHT, DOWN = (tl.constexpr(q) for q in range(4))
QUANTITIES = 4


@triton.jit
def _largest(x_ptr, rows, mask, first, D, SLICE: tl.constexpr, BLOCK_D: tl.constexpr):
    """(N,) max |x| over one slice of D. Reads N * SLICE features again; only for norms that came out infinite."""
    largest = tl.zeros(rows.shape, tl.float32)
    for offset in range(0, SLICE, BLOCK_D):
        d = first + offset + tl.arange(0, BLOCK_D)
        value = tl.load(x_ptr + rows[:, None] + d[None, :], mask[:, None] & (d < D)[None, :], other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.max(tl.abs(value), axis=1))
    return largest


@triton.jit(
    do_not_specialize=[
        "length",
        "height",
        "width",
        "start",
        "stop",
        "has_reference",
        "frames_per_program",
        "tokens",
        "nonfinite_words",
        "sync_words",
    ]
)
def similarity_kernel(
    x_ptr,  # (T, H, W, D), last dimension contiguous
    reference_ptr,  # (H, W, D)
    dots_ptr,  # out (4, D / SLICE, tokens) float32
    sums_ptr,  # out (tiles of all frames, D) float32
    next_reference_ptr,  # out (H, W, D)
    nonfinite_ptr,  # out (nonfinite_words,) int64, zeroed
    sync_ptr,  # out (sync_words,) int32, zeroed for the kernels that follow
    table_ptr,  # (STREAMS, COLUMNS) int64, see streams.py
    length,
    height,
    width,
    start,
    stop,
    has_reference,
    frames_per_program,
    tokens,
    nonfinite_words,
    sync_words,
    D,
    stride_t,
    stride_h,
    stride_w,
    STREAMS: tl.constexpr,
    ALIGNED: tl.constexpr,
    SPATIAL: tl.constexpr,
    SUMS: tl.constexpr,
    KEEP_LAST: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    SLICE: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Computes, per token, |x|^2 and x.reference, x.right, x.below over a slice of D; per tile, the sum of its tokens.

    Reads each feature once from memory (halo and previous frame again, through the caches) and writes 16 * D / SLICE
    bytes a token, 4 * D a tile; with KEEP_LAST the last frame of each stream.
    Grid: frames / frames_per_program x tiles x slices, the slice fastest; a program walks through its frames.
    Assumes SLICE % BLOCK_D == 0. A partial norm is NaN iff a value of the slice is not finite.
    """
    program = tl.program_id(0)
    _clear(sync_ptr, sync_words, program)
    _clear(nonfinite_ptr, nonfinite_words, program)

    b = find_stream(table_ptr, program, PROGRAM, STREAMS)
    has_reference = given(table_ptr, b, REFERENCE, has_reference, STREAMS)
    x_ptr = pointer(table_ptr, b, X, x_ptr, STREAMS, ALIGNED)
    reference_ptr = pointer(table_ptr, b, REFERENCE, reference_ptr, STREAMS, ALIGNED)
    next_reference_ptr = pointer(table_ptr, b, NEXT_REFERENCE, next_reference_ptr, STREAMS, ALIGNED)
    stride_t = aligned_entry(table_ptr, b, STRIDE_T, stride_t, STREAMS, ALIGNED)
    stride_h = aligned_entry(table_ptr, b, STRIDE_H, stride_h, STREAMS, ALIGNED)
    stride_w = aligned_entry(table_ptr, b, STRIDE_W, stride_w, STREAMS, ALIGNED)
    length = size(table_ptr, b, LENGTH, length, STREAMS)
    height = size(table_ptr, b, HEIGHT, height, STREAMS)
    width = size(table_ptr, b, WIDTH, width, STREAMS)
    start = size(table_ptr, b, START, start, STREAMS)
    stop = size(table_ptr, b, STOP, stop, STREAMS)
    first_token = entry(table_ptr, b, TOKEN, 0, STREAMS)
    first_tile = entry(table_ptr, b, TILE, 0, STREAMS)
    program -= size(table_ptr, b, PROGRAM, 0, STREAMS)

    slices = tl.cdiv(D, SLICE)
    tiles_w = tl.cdiv(width, TILE_W)
    tiles = tl.cdiv(height, TILE_H) * tiles_w
    s = program % slices
    tile = program // slices % tiles
    first = start + program // (slices * tiles) * frames_per_program

    k = tl.arange(0, TILE_H * TILE_W)
    i = (tile // tiles_w * TILE_H + k // TILE_W).to(tl.int64)
    j = (tile % tiles_w * TILE_W + k % TILE_W).to(tl.int64)
    inside = (i < height) & (j < width)
    rows = i * stride_h + j * stride_w
    packed_rows = (i * width + j) * D

    for n in range(first, tl.minimum(first + frames_per_program, stop)):
        frame_ptr = x_ptr + tl.cast(n, tl.int64) * stride_t
        previous_ptr = frame_ptr - stride_t
        previous_rows = rows
        previous_inside = inside
        if n == start:
            previous_ptr = reference_ptr
            previous_rows = packed_rows
            previous_inside = inside & (has_reference != 0)

        squared = tl.zeros((TILE_H * TILE_W, BLOCK_D), tl.float32)
        previous = tl.zeros((TILE_H * TILE_W, BLOCK_D), tl.float32)
        right = tl.zeros((TILE_H * TILE_W, BLOCK_D), tl.float32)
        down = tl.zeros((TILE_H * TILE_W, BLOCK_D), tl.float32)
        for offset in range(0, SLICE, BLOCK_D):
            d = s * SLICE + offset + tl.arange(0, BLOCK_D)
            within = (d < D)[None, :]
            at = rows[:, None] + d[None, :]
            raw = tl.load(frame_ptr + at, inside[:, None] & within, other=0.0)
            value = raw.to(tl.float32)
            squared += value * value
            before = tl.load(
                previous_ptr + (previous_rows[:, None] + d[None, :]), previous_inside[:, None] & within, other=0.0
            ).to(tl.float32)
            previous += value * before
            if SPATIAL:
                beside = tl.load(frame_ptr + stride_w + at, (inside & (j + 1 < width))[:, None] & within, other=0.0).to(
                    tl.float32
                )
                right += value * beside
                below = tl.load(frame_ptr + stride_h + at, (inside & (i + 1 < height))[:, None] & within, other=0.0).to(
                    tl.float32
                )
                down += value * below
            if SUMS:
                sums_row = (first_tile + tl.cast(n, tl.int64) * tiles + tile) * D
                tl.store(sums_ptr + sums_row + d, tl.sum(value, axis=0), mask=d < D)
            if KEEP_LAST and n == length - 1:
                tl.store(next_reference_ptr + (packed_rows[:, None] + d[None, :]), raw, inside[:, None] & within)

        norm = tl.sum(squared, axis=1)
        if tl.max((norm == float("inf")).to(tl.int32), axis=0) > 0:  # an Inf, or a norm beyond float32?
            largest = _largest(frame_ptr, rows, inside, s * SLICE, D, SLICE, BLOCK_D)
            norm = tl.where(largest == float("inf"), float("nan"), norm)
        out = s * tl.cast(tokens, tl.int64) + first_token + (n * tl.cast(height, tl.int64) + i) * width + j
        quantity = slices * tl.cast(tokens, tl.int64)
        tl.store(dots_ptr + SQUARED_NORM * quantity + out, norm, mask=inside)
        tl.store(dots_ptr + PREVIOUS * quantity + out, tl.sum(previous, axis=1), mask=inside)
        if SPATIAL:
            tl.store(dots_ptr + RIGHT * quantity + out, tl.sum(right, axis=1), mask=inside)
            tl.store(dots_ptr + DOWN * quantity + out, tl.sum(down, axis=1), mask=inside)


@triton.jit
def _clear(words_ptr, words, program):
    """Writes zeros: `words` of them, by all programs of the grid together."""
    lanes = tl.arange(0, 256)
    for offset in range(program * 256, words, tl.num_programs(0) * 256):
        tl.store(words_ptr + offset + lanes, 0, mask=offset + lanes < words)
