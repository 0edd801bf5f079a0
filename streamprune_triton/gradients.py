"""Gradients of a pruned result: kept tokens are a gather and carriers a mean; the selection is not differentiated."""

from __future__ import annotations

import torch

from .result import PaddedPruneResult


def wanted(x: torch.Tensor) -> bool:
    """Whether results of x have to be part of autograd's graph."""
    return x.requires_grad and torch.is_grad_enabled()


def tokens(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """(K, D), the tokens of x (T, H, W, D) at `indices`."""
    return x.reshape(-1, x.shape[3]).index_select(0, indices)


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
