"""Where a program's stream lies: scalar arguments for one stream, rows of a table for a ragged batch."""

import triton
import triton.language as tl

# Columns of the table, int64, one row a stream. Addresses are those of CUDA memory (of host memory when interpreted).
NAMES = (
    "x",  # address of (T, H, W, D)
    "stride_t",
    "stride_h",
    "stride_w",
    "reference",  # address of (H, W, D), 0 without one
    "squared_norms",  # address of (H, W) float32, 0 without a reference
    "frames",  # address of () int64, 0 for a new stream
    "next_reference",  # address of (H, W, D)
    "next_norms",  # address of (H, W) float32
    "length",  # T
    "height",  # H
    "width",  # W
    "start",  # first frame of this launch
    "stop",  # last frame of this launch, plus one
    "token",  # index of the stream's first token in the packed results
    "frame",  # of its first frame
    "tile",  # of its first tile of partial sums
    "row",  # of its first row of tokens and indices
    "capacity",  # rows of tokens and indices
    "program",  # its first program in the similarity kernel
    "block",  # its first block in the decision and compaction kernels
    "segment",  # its first frame among those of this launch
)
COLUMNS = tl.constexpr(len(NAMES))
X, STRIDE_T, STRIDE_H, STRIDE_W = (tl.constexpr(NAMES.index(n)) for n in NAMES[:4])
REFERENCE, NORMS, FRAMES, NEXT_REFERENCE, NEXT_NORMS = (tl.constexpr(NAMES.index(n)) for n in NAMES[4:9])
LENGTH, HEIGHT, WIDTH, START, STOP = (tl.constexpr(NAMES.index(n)) for n in NAMES[9:14])
TOKEN, FRAME, TILE, ROW, CAPACITY, PROGRAM, BLOCK, SEGMENT = (tl.constexpr(NAMES.index(n)) for n in NAMES[14:])


@triton.jit
def find_stream(table_ptr, index, column: tl.constexpr, STREAMS: tl.constexpr):
    """The last stream whose entry in an ascending column is at most `index`; 0 where STREAMS is 0 (one stream).

    Reads one column of the table. Assumes STREAMS is a power of two, spare rows holding entries larger than any index.
    """
    if STREAMS == 0:
        stream = 0
    else:
        firsts = tl.load(table_ptr + tl.arange(0, STREAMS) * COLUMNS + column)
        stream = tl.sum((firsts <= index).to(tl.int32)) - 1
    return stream


@triton.jit
def entry(table_ptr, stream, column: tl.constexpr, single, STREAMS: tl.constexpr):
    """The stream's entry in a column, or `single` where STREAMS is 0. Reads 8 bytes."""
    if STREAMS == 0:
        value = single
    else:
        value = tl.load(table_ptr + stream * COLUMNS + column)
    return value


@triton.jit
def size(table_ptr, stream, column: tl.constexpr, single, STREAMS: tl.constexpr):
    """As `entry`, for what fits 32 bits, in which divisions are quick."""
    if STREAMS == 0:
        value = single
    else:
        value = tl.load(table_ptr + stream * COLUMNS + column).to(tl.int32)
    return value


@triton.jit
def pointer(table_ptr, stream, column: tl.constexpr, single, STREAMS: tl.constexpr, ALIGNED: tl.constexpr):
    """As `entry`, for an address. Assumes that ALIGNED addresses are multiples of 16 bytes."""
    if STREAMS == 0:
        value = single
    else:
        address = tl.load(table_ptr + stream * COLUMNS + column)
        value = address.to(single.dtype)
        if ALIGNED:
            value = tl.multiple_of(value, 16)
    return value


@triton.jit
def aligned_entry(table_ptr, stream, column: tl.constexpr, single, STREAMS: tl.constexpr, ALIGNED: tl.constexpr):
    """As `entry`, for a stride. Assumes that ALIGNED strides are multiples of 16 elements."""
    if STREAMS == 0:
        value = single
    else:
        value = tl.load(table_ptr + stream * COLUMNS + column)
        if ALIGNED:
            value = tl.multiple_of(value, 16)
    return value


@triton.jit
def given(table_ptr, stream, column: tl.constexpr, single, STREAMS: tl.constexpr):
    """Whether the stream has the address in a column: nonzero if so; `single` where STREAMS is 0."""
    if STREAMS == 0:
        value = single
    else:
        value = (tl.load(table_ptr + stream * COLUMNS + column) != 0).to(tl.int32)
    return value
