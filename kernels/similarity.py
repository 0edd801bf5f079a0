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
from .strips import (
    STRIP_H,
    STRIP_W,
    TOKENS,
    across_strips,
    across_threads,
    add_dots,
    add_tokens,
    below_of,
    halo_places,
    lanes,
    load_tokens,
    own_places,
    right_of,
)

# What `dots` holds, in this order.
SQUARED_NORM, PREVIOUS, RIGHT, DOWN = (tl.constexpr(q) for q in range(4))
QUANTITIES = 4


@triton.jit
def _mark_infinite(
    frame_ptr, norms_ptr, i, j, height, width, stride_h, stride_w, first, D, SLICE: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """Writes NaN as the partial norm of the tokens (i, j), (N,) each, that hold an Inf in a slice of D.

    Reads N * SLICE features again; only for norms that came out infinite, which large finite values do as well.
    """
    inside = (i < height) & (j < width)
    rows = i.to(tl.int64) * stride_h + j.to(tl.int64) * stride_w
    largest = tl.zeros(i.shape, tl.float32)
    for offset in range(first, first + SLICE, BLOCK_D):
        d = offset + tl.arange(0, BLOCK_D)
        value = tl.load(frame_ptr + rows[:, None] + d[None, :], inside[:, None] & (d < D)[None, :], other=0.0).to(
            tl.float32
        )
        largest = tl.maximum(largest, tl.max(tl.abs(value), axis=1))
    tl.store(norms_ptr + i * width + j, float("nan"), inside & (largest == float("inf")))


@triton.jit
def _copy(
    x_ptr, out_ptr, top, left, height, width, frame, stride_h, stride_w, first, D, TILE_H: tl.constexpr,
    TILE_W: tl.constexpr, SLICE: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Copies a slice of D of the tile at (top, left) to a packed frame. Reads it from the cache, where it is by now."""
    t = tl.arange(0, TILE_H * TILE_W)
    i, j = top + t // TILE_W, left + t % TILE_W
    rows = i.to(tl.int64) * stride_h + j.to(tl.int64) * stride_w
    packed = (i.to(tl.int64) * width + j) * D
    for offset in range(first, tl.minimum(first + SLICE, D), BLOCK_D):
        d = offset + tl.arange(0, BLOCK_D)
        mask = ((i < height) & (j < width))[:, None] & (d < D)[None, :]
        raw = tl.load(x_ptr + frame + (rows[:, None] + d[None, :]), mask)
        tl.store(out_ptr + (packed[:, None] + d[None, :]), raw, mask)


@triton.jit
def _compare(
    x_ptr, reference_ptr, dots_ptr, sums_ptr, table_ptr, b, height, width, start, has_reference, tokens, D, stride_t,
    stride_h, stride_w, n, top, left, s, group, groups, fresh, STREAMS: tl.constexpr, ALIGNED: tl.constexpr,
    SPATIAL: tl.constexpr, SUMS: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr, SLICE: tl.constexpr,
    BLOCK_D: tl.constexpr, LANES: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """What `similarity_kernel` computes, for slice s of a tile of frame n; `fresh` if the tile is its group's first.

    Asks the table again for what it needs, as there are no registers to keep that in.
    """
    x_ptr = pointer(table_ptr, b, X, x_ptr, STREAMS, ALIGNED)
    stride_t = tl.cast(aligned_entry(table_ptr, b, STRIDE_T, stride_t, STREAMS, ALIGNED), tl.int64)
    stride_h = tl.cast(aligned_entry(table_ptr, b, STRIDE_H, stride_h, STREAMS, ALIGNED), tl.int64)
    stride_w = tl.cast(aligned_entry(table_ptr, b, STRIDE_W, stride_w, STREAMS, ALIGNED), tl.int64)
    height = size(table_ptr, b, HEIGHT, height, STREAMS)
    width = size(table_ptr, b, WIDTH, width, STREAMS)

    STRIPS: tl.constexpr = TILE_H * TILE_W // TOKENS
    strip = tl.arange(0, STRIPS)
    i = top + strip // (TILE_W // STRIP_W) * STRIP_H
    j = left + strip % (TILE_W // STRIP_W) * STRIP_W
    rows = i.to(tl.int64) * stride_h + j.to(tl.int64) * stride_w
    frame_ptr = x_ptr + n * stride_t
    before_ptr, before_rows, before_height = frame_ptr - stride_t, rows, height
    at_start = n == size(table_ptr, b, START, start, STREAMS)
    if at_start:
        before_ptr = pointer(table_ptr, b, REFERENCE, reference_ptr, STREAMS, ALIGNED)
        before_rows = (i.to(tl.int64) * width + j) * D
        before_height = tl.where(given(table_ptr, b, REFERENCE, has_reference, STREAMS) != 0, height, 0)

    zero = tl.zeros((STRIPS, BLOCK_D // LANES), tl.float32)
    squared = (zero, zero, zero, zero, zero, zero, zero, zero)
    previous, right, down = squared, squared, squared
    d = s * SLICE + tl.arange(0, BLOCK_D)
    at = rows[:, None] + d[None, :]
    there = before_rows[:, None] + d[None, :]
    sums_ptr += (entry(table_ptr, b, TILE, 0, STREAMS) + n * groups + group) * D
    for _ in range(0, tl.minimum(SLICE, D - s * SLICE), BLOCK_D):
        within = (d < D)[None, :] | EVEN
        # asked again in every round of a batch, in which these are loads: there are no registers for all places
        step_h = tl.cast(aligned_entry(table_ptr, b, STRIDE_H, stride_h, STREAMS, ALIGNED), tl.int64)
        step_w = tl.cast(aligned_entry(table_ptr, b, STRIDE_W, stride_w, STREAMS, ALIGNED), tl.int64)
        before_h, before_w = step_h, step_w
        if at_start:
            before_h, before_w = tl.cast(width, tl.int64) * D, tl.cast(D, tl.int64)
        here = load_tokens(frame_ptr, at, own_places(), i, j, height, width, step_h, step_w, within)
        before = load_tokens(before_ptr, there, own_places(), i, j, before_height, width, before_h, before_w, within)
        own, earlier = lanes(here, LANES), lanes(before, LANES)
        if SPATIAL:
            halo = load_tokens(frame_ptr, at, halo_places(), i, j, height, width, step_h, step_w, within)
            around = lanes(halo, LANES)
            beside, below = right_of(own, around), below_of(own, around)
        sums = ()
        for lane in tl.static_range(LANES):
            squared = add_dots(squared, own, own, lane)
            previous = add_dots(previous, own, earlier, lane)
            if SPATIAL:
                right = add_dots(right, own, beside, lane)
                down = add_dots(down, own, below, lane)
            if SUMS:
                sums += (add_tokens(own, lane),)
        if SUMS:
            added = tl.full(d.shape, fresh, tl.int1) == 0
            so_far = tl.load(sums_ptr + d, (d < D) & added, other=0.0)
            tl.store(sums_ptr + d, so_far + across_strips(sums, LANES), mask=d < D)
        d += BLOCK_D
        at += BLOCK_D
        there += BLOCK_D

    norm = across_threads(squared)
    k = tl.arange(0, TOKENS)[None, :]
    inside = (i[:, None] + k // STRIP_W < height) & (j[:, None] + k % STRIP_W < width)
    first = s * tokens + entry(table_ptr, b, TOKEN, 0, STREAMS) + n * (tl.cast(height, tl.int64) * width)
    out = dots_ptr + first + (i[:, None] + k // STRIP_W) * width + j[:, None] + k % STRIP_W
    quantity = tl.cdiv(D, SLICE) * tokens
    tl.store(out + SQUARED_NORM * quantity, norm, mask=inside)
    tl.store(out + PREVIOUS * quantity, across_threads(previous), mask=inside)
    if SPATIAL:
        tl.store(out + RIGHT * quantity, across_threads(right), mask=inside)
        tl.store(out + DOWN * quantity, across_threads(down), mask=inside)
    if tl.max(tl.max((inside & (norm == float("inf"))).to(tl.int32), axis=1), axis=0) > 0:
        tl.debug_barrier()  # other threads write over some of these norms
        t = tl.arange(0, TILE_H * TILE_W)
        _mark_infinite(
            frame_ptr, dots_ptr + SQUARED_NORM * quantity + first, top + t // TILE_W, left + t % TILE_W, height, width,
            stride_h, stride_w, s * SLICE, D, SLICE, BLOCK_D,
        )  # fmt: skip


@triton.jit(
    do_not_specialize=[
        "length",
        "height",
        "width",
        "start",
        "stop",
        "has_reference",
        "tiles_per_program",
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
    sums_ptr,  # out (groups of tiles of all frames, D) float32
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
    tiles_per_program,
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
    LANES: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Computes, per token, |x|^2 and x.reference, x.right, x.below over a slice of D; per group of tiles, its sum.

    Reads each feature once from memory (a strip's halo and the previous frame again, through the caches) and writes
    16 * D / SLICE bytes a token, 4 * D a group of tiles; with KEEP_LAST the last frame of each stream.
    Grid: frames / frames_per_program x tiles / tiles_per_program x slices, the slice fastest; a program walks through
    its tiles, and in each through its frames.
    Assumes SLICE % BLOCK_D == 0, with EVEN D % BLOCK_D == 0, and LANES features in 16 bytes. A partial norm is NaN iff
    a value of the slice is not finite.
    """
    program = tl.program_id(0)
    _clear(sync_ptr, sync_words, program)
    _clear(nonfinite_ptr, nonfinite_words, program)

    b = find_stream(table_ptr, program, PROGRAM, STREAMS)
    rows = size(table_ptr, b, HEIGHT, height, STREAMS)
    columns = size(table_ptr, b, WIDTH, width, STREAMS)
    program -= size(table_ptr, b, PROGRAM, 0, STREAMS)
    tokens = tl.cast(tokens, tl.int64)

    slices = tl.cdiv(D, SLICE)
    tiles_w = tl.cdiv(columns, TILE_W)
    tiles = tl.cdiv(rows, TILE_H) * tiles_w
    groups = tl.cdiv(tiles, tiles_per_program)
    s = program % slices
    group = program // slices % groups
    frames = program // (slices * groups) * frames_per_program
    first = size(table_ptr, b, START, start, STREAMS) + frames
    last = tl.minimum(first + frames_per_program, size(table_ptr, b, STOP, stop, STREAMS))

    for tile in range(group * tiles_per_program, tl.minimum((group + 1) * tiles_per_program, tiles)):
        tl.debug_barrier()  # the sums are read again, perhaps by other threads than wrote them
        top, left = tile // tiles_w * TILE_H, tile % tiles_w * TILE_W
        for n in range(first, last):
            _compare(
                x_ptr, reference_ptr, dots_ptr, sums_ptr, table_ptr, b, height, width, start, has_reference, tokens, D,
                stride_t, stride_h, stride_w, tl.cast(n, tl.int64), top, left, s, group, groups,
                tile == group * tiles_per_program, STREAMS, ALIGNED, SPATIAL, SUMS, TILE_H, TILE_W, SLICE, BLOCK_D,
                LANES, EVEN,
            )  # fmt: skip
        if KEEP_LAST and last == size(table_ptr, b, LENGTH, length, STREAMS):
            _copy(
                pointer(table_ptr, b, X, x_ptr, STREAMS, ALIGNED),
                pointer(table_ptr, b, NEXT_REFERENCE, next_reference_ptr, STREAMS, ALIGNED), top, left, rows, columns,
                tl.cast(last - 1, tl.int64) * aligned_entry(table_ptr, b, STRIDE_T, stride_t, STREAMS, ALIGNED),
                aligned_entry(table_ptr, b, STRIDE_H, stride_h, STREAMS, ALIGNED),
                aligned_entry(table_ptr, b, STRIDE_W, stride_w, STREAMS, ALIGNED),
                s * SLICE, D, TILE_H, TILE_W, SLICE, BLOCK_D,
            )  # fmt: skip


@triton.jit
def _clear(words_ptr, words, program):
    """Writes zeros: `words` of them, by all programs of the grid together."""
    lane = tl.arange(0, 256)
    for offset in range(program * 256, words, tl.num_programs(0) * 256):
        tl.store(words_ptr + offset + lane, 0, mask=offset + lane < words)
