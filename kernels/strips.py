"""Strips of 2 x 4 tokens: a group of threads holds one in registers, so that the edges inside it cost no load."""

import triton
import triton.language as tl

STRIP_H, STRIP_W = tl.constexpr(2), tl.constexpr(4)
TOKENS = tl.constexpr(8)  # of a strip, in raster order: token k lies in its row k // 4 and column k % 4


@triton.jit
def own_places():
    """Where a strip's tokens lie, 8 * row + column each."""
    return (0, 1, 2, 3, 8, 9, 10, 11)


@triton.jit
def halo_places():
    """Where the two tokens beside a strip and the four below it lie."""
    return (4, 12, 16, 17, 18, 19)


@triton.jit
def load_tokens(x_ptr, offsets, places, i, j, height, width, stride_h, stride_w, within):
    """For each place the features (STRIPS, BLOCK_D) of the token there of every strip; 0 where that is off the grid.

    A strip's first token is (i, j), (STRIPS,) each, its features at `offsets`, of which those `within` exist.
    """
    return [
        tl.load(
            (x_ptr + (p // 8 * stride_h + p % 8 * stride_w)) + offsets,
            ((i + p // 8 < height) & (j + p % 8 < width))[:, None] & within,
            other=0.0,
        )
        for p in places
    ]


@triton.jit
def lanes(tokens, LANES: tl.constexpr):
    """The LANES features of each 16-byte load as so many float32 tensors (STRIPS, BLOCK_D / LANES).

    One thread holds them all, so that this moves nothing.
    """
    strips: tl.constexpr = tokens[0].shape[0]
    chunks: tl.constexpr = tokens[0].shape[1] // LANES
    if LANES == 4:
        halves = [tl.split(tl.reshape(token.to(tl.float32), (strips, chunks, 2, 2))) for token in tokens]
        quarters = [(tl.split(half[0]), tl.split(half[1])) for half in halves]
        parts = [(q[0][0], q[1][0], q[0][1], q[1][1]) for q in quarters]
    else:
        halves = [tl.split(tl.reshape(token.to(tl.float32), (strips, chunks, 2, 2, 2))) for token in tokens]
        quarters = [tl.split(half[0]) + tl.split(half[1]) for half in halves]
        eighths = [(tl.split(q[0]), tl.split(q[2]), tl.split(q[1]), tl.split(q[3])) for q in quarters]
        parts = [(e[0][0], e[1][0], e[2][0], e[3][0], e[0][1], e[1][1], e[2][1], e[3][1]) for e in eighths]
    return parts


@triton.jit
def add_dots(totals, a, b, lane: tl.constexpr):
    """totals + a.b for each of a strip's tokens, of one lane."""
    return [tl.fma(a[k][lane], b[k][lane], totals[k]) for k in (0, 1, 2, 3, 4, 5, 6, 7)]


@triton.jit
def add_tokens(tokens, lane: tl.constexpr):
    """(STRIPS, BLOCK_D / LANES) the sum of a strip's tokens, of one lane."""
    total = tokens[0][lane]
    for k in tl.static_range(1, TOKENS):
        total += tokens[k][lane]
    return total


@triton.jit
def right_of(own, halo):
    """The right neighbours of a strip's tokens."""
    return (own[1], own[2], own[3], halo[0], own[5], own[6], own[7], halo[1])


@triton.jit
def below_of(own, halo):
    """The lower neighbours of a strip's tokens."""
    return (own[4], own[5], own[6], own[7], halo[2], halo[3], halo[4], halo[5])


@triton.jit
def across_strips(sums, LANES: tl.constexpr):
    """(BLOCK_D,) the sums of all strips' tokens, from those of each lane."""
    if LANES == 4:
        joined = tl.join(tl.join(sums[0], sums[2]), tl.join(sums[1], sums[3]))
    else:
        even = tl.join(tl.join(sums[0], sums[4]), tl.join(sums[2], sums[6]))
        odd = tl.join(tl.join(sums[1], sums[5]), tl.join(sums[3], sums[7]))
        joined = tl.join(even, odd)
    return tl.sum(tl.reshape(joined, (sums[0].shape[0], sums[0].shape[1] * LANES)), axis=0)


@triton.jit
def across_threads(totals):
    """(STRIPS, 8) the totals of each strip's tokens, added up over its threads: (STRIPS, threads) each."""
    a, b, c, d, e, f, g, h = totals
    even = tl.join(tl.join(a, e), tl.join(c, g))
    odd = tl.join(tl.join(b, f), tl.join(d, h))
    total = tl.sum(tl.join(even, odd), axis=1)  # (STRIPS, 2, 2, 2), the bits of k from the highest
    return tl.reshape(total, (total.shape[0], TOKENS))
