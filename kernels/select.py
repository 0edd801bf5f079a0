"""An exact budget: the K least redundant tokens of a frame or of a clip."""

import triton
import triton.language as tl

from .decide import DROP, KEEP, KEYFRAME
from .streams import HEIGHT, LENGTH, SEGMENT, START, TOKEN, WIDTH, entry, find_stream, size


@triton.jit
def _order(redundancy):
    """(N,) int64 keys in the order of the float32 values, -0 equal to 0."""
    bits = (redundancy + 0.0).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def _at_most(decision_ptr, redundancy_ptr, first, count, key, BLOCK_T: tl.constexpr):
    """How many eligible tokens of a segment have a key of at most `key`. Reads 5 bytes a token."""
    found = tl.zeros((BLOCK_T,), tl.int64)
    for offset in range(0, count, BLOCK_T):
        t = offset + tl.arange(0, BLOCK_T)
        eligible = tl.load(decision_ptr + first + t, t < count, other=DROP) == KEEP
        redundancy = tl.load(redundancy_ptr + first + t, t < count, other=0.0)
        found += (eligible & (_order(redundancy) <= key)).to(tl.int64)
    return tl.sum(found, axis=0)


@triton.jit(do_not_specialize=["height", "width", "length", "start", "budget"])
def select_kernel(
    decision_ptr,  # in and out (tokens,) uint8: KEEP stays KEEP if chosen, KEYFRAME becomes KEEP, the rest DROP
    redundancy_ptr,  # (tokens,) float32
    table_ptr,  # (STREAMS, COLUMNS) int64
    height,
    width,
    length,
    start,
    budget,
    STREAMS: tl.constexpr,
    CLIP: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Keeps the `budget` eligible tokens of least redundancy in each segment, ties to the lower index.

    Finds the budget-th smallest key by bisection of its 32 bits. Reads 170 bytes a token, from the cache, writes 1.
    Grid: one program a frame, with CLIP one a stream.
    """
    segment = tl.program_id(0)
    if CLIP:
        b = segment
        n = 0
    else:
        b = find_stream(table_ptr, segment, SEGMENT, STREAMS)
        n = size(table_ptr, b, START, start, STREAMS) + segment - size(table_ptr, b, SEGMENT, 0, STREAMS)
    area = size(table_ptr, b, HEIGHT, height, STREAMS) * size(table_ptr, b, WIDTH, width, STREAMS)
    count = tl.cast(area, tl.int64)
    first = entry(table_ptr, b, TOKEN, 0, STREAMS) + n * count
    if CLIP:
        count *= size(table_ptr, b, LENGTH, length, STREAMS)

    low = tl.cast(-2147483648, tl.int64)
    high = tl.cast(2147483647, tl.int64)
    for _ in range(32):  # high always has `budget` keys at or below it, unless fewer are eligible
        middle = (low + high) >> 1
        enough = _at_most(decision_ptr, redundancy_ptr, first, count, middle, BLOCK_T) >= budget
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle + 1)
    ties = budget - _at_most(decision_ptr, redundancy_ptr, first, count, high - 1, BLOCK_T)

    for offset in range(0, count, BLOCK_T):
        t = offset + tl.arange(0, BLOCK_T)
        decision = tl.load(decision_ptr + first + t, t < count, other=DROP)
        key = _order(tl.load(redundancy_ptr + first + t, t < count, other=0.0))
        tie = ((decision == KEEP) & (key == high)).to(tl.int64)
        rank = tl.cumsum(tie, axis=0) - tie
        chosen = (decision == KEEP) & ((key < high) | ((tie > 0) & (rank < ties)))
        ties -= tl.sum(tie, axis=0)
        kept = tl.where(chosen | (decision == KEYFRAME), KEEP, DROP)
        tl.store(decision_ptr + first + t, kept.to(tl.uint8), mask=t < count)
