"""Gradients of a pruned result: kept tokens are a gather and carriers a mean; the selection is not differentiated."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

from .result import PaddedPruneResult


def check(x: torch.Tensor) -> None:
    """Raises ValueError where x is differentiated forwards: results without a tangent would read as constants."""
    if forward_ad.unpack_dual(x).tangent is not None:
        raise ValueError("x must not carry a forward-mode tangent: use backward, torch.func.vjp, or x.detach()")


def wanted(x: torch.Tensor) -> bool:
    """Whether results of x have to be part of autograd's graph."""
    return x.requires_grad and torch.is_grad_enabled()


def tokens(x: torch.Tensor, result: PaddedPruneResult) -> torch.Tensor:
    """(C, D), the tokens that `result` holds, as functions of x (T, H, W, D) as it is now."""
    found: torch.Tensor = _Kept.apply(x, result.tokens, result.keep)
    return found


class _Kept(torch.autograd.Function):
    """The copies that the pruning step has made of x's tokens: their gradients go back to where they are from."""

    @staticmethod
    def forward(x: torch.Tensor, tokens: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return tokens.view_as(tokens)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (keep,), (grad,) = ctx.saved_tensors, grads
        zeros = grad.new_zeros(*keep.shape, grad.shape[-1])
        # in raster order, as the rows are; the rows behind the last kept one are left over
        return zeros.masked_scatter(keep[..., None], grad), None, None


def carriers(x: torch.Tensor, result: PaddedPruneResult, carrier: str | None) -> torch.Tensor | None:
    """(T, D), the means that `result` holds, as functions of x (T, H, W, D)."""
    if carrier is None:
        return None
    chosen = x.isfinite().all(-1).flatten(1)
    if carrier == "kept":
        keep = result.keep.flatten(1)
        chosen = torch.where(keep.any(1, keepdim=True), keep, chosen)
    total = torch.where(chosen[..., None], x.flatten(1, 2), 0.0).sum(1, dtype=torch.float32)
    return (total / chosen.sum(1, keepdim=True).clamp_min(1)).to(x.dtype)
