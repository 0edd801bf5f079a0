"""Turns cached keys to other positions, in all layers and heads at once."""

import torch
import triton
import triton.language as tl

from .tuned import FUSED

ROWS = 16  # rows a program


@triton.jit(do_not_specialize=["count"])
def rotate_kernel(
    rows_ptr,  # (count,) int64, unused with ALL
    keys_ptr,  # inout (layers, heads, capacity, D)
    cos_ptr,  # (count, F) float32
    sin_ptr,  # (count, F) float32
    count,
    heads,
    D,
    F,
    step,
    apart,
    stride_layer,
    stride_head,
    ALL: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Computes (k1 cos - k2 sin, k2 cos + k1 sin) of each row k, in float32.

    k1 is every step-th feature, k2 the ones so far apart from them: 1 and F for halves, 2 and 1 for pairs.
    Reads and writes 2 F features a row, layer and head; reads 8 F bytes of cos and sin a row and layer.
    Grid: layers x blocks of BLOCK_R rows, the block fastest; a program turns its rows in all heads of its layer.
    Assumes distinct rows. Row r is number rows[r] of the cache, number r with ALL.
    """
    blocks = tl.cdiv(count, BLOCK_R)
    layer = tl.cast(tl.program_id(0) // blocks, tl.int64)
    r = tl.program_id(0) % blocks * BLOCK_R + tl.arange(0, BLOCK_R)
    f = tl.arange(0, BLOCK_F)
    if ALL:
        row = r.to(tl.int64)
    else:
        row = tl.load(rows_ptr + r, r < count, other=0)

    mask = (r < count)[:, None] & (f < F)[None, :]
    turn = r.to(tl.int64)[:, None] * F + f[None, :]
    cos = tl.load(cos_ptr + turn, mask, other=0.0)
    sin = tl.load(sin_ptr + turn, mask, other=0.0)
    first_ptr = keys_ptr + layer * stride_layer + (row[:, None] * D + f[None, :] * step)
    for _ in range(heads):
        k1 = tl.load(first_ptr, mask, other=0.0).to(tl.float32)
        k2 = tl.load(first_ptr + apart, mask, other=0.0).to(tl.float32)
        new1 = k1 * cos - k2 * sin
        new2 = k2 * cos + k1 * sin
        if keys_ptr.dtype.element_ty != tl.float32:  # said aloud, as the interpreter would cut off
            new1 = new1.to(keys_ptr.dtype.element_ty, fp_downcast_rounding="rtne")
            new2 = new2.to(keys_ptr.dtype.element_ty, fp_downcast_rounding="rtne")
        tl.store(first_ptr, new1, mask)
        tl.store(first_ptr + apart, new2, mask)
        first_ptr += stride_head


def rotate(
    rows: torch.Tensor | None, keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, pairs: bool = False
) -> None:
    """Turns the first 2 F features of rows of the keys in place; one launch, which the host does not wait for.

    Args:
        rows: (R,) int64, distinct, R > 0; None for the rows 0 .. R - 1.
        keys: (layers, heads, capacity, head_dim), rows contiguous, changed in place.
        cos, sin: (R, F) float32, contiguous, 2 F <= head_dim.
        pairs: turn feature 2 f with 2 f + 1, not f with f + F.
    """
    layers, heads, _, dim = keys.shape
    count, f = cos.shape
    step, apart = (2, 1) if pairs else (1, f)
    rotate_kernel[(layers * triton.cdiv(count, ROWS),)](
        cos if rows is None else rows, keys, cos, sin, count, heads, dim, f, step, apart,
        keys.stride(0), keys.stride(1),
        ALL=rows is None, BLOCK_R=ROWS, BLOCK_F=triton.next_power_of_2(f), num_warps=4, **FUSED,
    )  # fmt: skip
