"""Moves rows of a KV cache from its tail into the holes that dropped rows left, in all layers and heads at once."""

import torch
import triton
import triton.language as tl

from .tuned import FUSED

ROWS = 16  # rows a program


@triton.jit(do_not_specialize=["moves"])
def move_kernel(
    table_ptr,  # (2, moves) int64, the rows to read and then the rows to write
    kv_ptr,  # inout (planes, capacity, words), the bits as integers
    moves,
    words,
    stride_plane,
    BLOCK_M: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Copies row table[0, m] to row table[1, m] of every plane, bit for bit.

    Reads and writes `words` integers a move and plane. Grid: planes x blocks of BLOCK_M moves, the block fastest.
    Assumes that no row is both read and written, and none written twice, so the order of programs is free.
    """
    blocks = tl.cdiv(moves, BLOCK_M)
    plane = tl.cast(tl.program_id(0) // blocks, tl.int64)
    m = tl.program_id(0) % blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    w = tl.arange(0, BLOCK_W)
    source = tl.load(table_ptr + m, m < moves, other=0)
    target = tl.load(table_ptr + moves + m, m < moves, other=0)

    mask = (m < moves)[:, None] & (w < words)[None, :]
    plane_ptr = kv_ptr + plane * stride_plane
    bits = tl.load(plane_ptr + (source[:, None] * words + w[None, :]), mask)
    tl.store(plane_ptr + (target[:, None] * words + w[None, :]), bits, mask)


def move(table: torch.Tensor, kv: torch.Tensor) -> None:
    """Row table[0, m] to row table[1, m] in every layer and head; one launch, which the host does not wait for.

    Args:
        table: (2, M) int64, M > 0. No row of the first half is in the second, and none is twice in the second.
        kv: (layers, 2, heads, capacity, head_dim), contiguous, changed in place.
    """
    layers, pair, heads, capacity, dim = kv.shape
    # whole words, so that a row of any dtype moves by 16 bytes a thread and keeps its bits
    words = kv.view(torch.int32 if dim * kv.element_size() % 4 == 0 else torch.uint8)
    moves, width = table.shape[1], words.shape[4]
    move_kernel[(layers * pair * heads * triton.cdiv(moves, ROWS),)](
        table, words, moves, width, capacity * width,
        BLOCK_M=ROWS, BLOCK_W=triton.next_power_of_2(width), num_warps=4, **FUSED,
    )  # fmt: skip
