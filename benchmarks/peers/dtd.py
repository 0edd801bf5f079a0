"""DTD, TimeChat-Online's differential token drop: as one expression, and token by token as published."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def dtd(x: torch.Tensor, tau: float, reference: torch.Tensor | None = None) -> torch.Tensor:
    """Differential token drop (arXiv 2504.17343), vectorised.

    Formula: a token is dropped where cos(x[n], x[n-1]) > tau at its place, in the features' own dtype. The frame before
    counts whole, dropped tokens included; a first frame without a reference is kept whole.
    Less than ours: no spatial part, no mean, no gather. More than published: batched over places, and a reference frame
    can be carried over from the call before, without which every chunk begins with a whole frame.
    Host waits: none.

    Args:
        x: (T, H, W, D) features.
        tau: cosine similarity above which a token is dropped.
        reference: (H, W, D), the last frame of the chunk before.

    Returns:
        (T, H, W) bool keep mask.
    """
    if reference is not None:
        return dtd(torch.cat([reference[None], x]), tau)[1:]
    keep = torch.ones(x.shape[:3], dtype=torch.bool, device=x.device)
    keep[1:] = ~(F.cosine_similarity(x[1:], x[:-1], dim=-1) > tau)
    return keep


def dtd_published(x: torch.Tensor, tau: float) -> torch.Tensor:
    """Differential token drop (arXiv 2504.17343) in the manner of TimeChat-Online's code: a Python loop over tokens.

    Formula: that of `dtd`, with the same decisions.
    Less than ours: as `dtd`, and no state from one call to the next. Less than published: the project's function runs
    about four operators and four host waits a token, this one a single comparison and a single wait.
    Host waits: one for each token after the first frame, (T - 1) * H * W in all.

    Args:
        x: (T, H, W, D) features.
        tau: cosine similarity above which a token is dropped.

    Returns:
        (T, H, W) bool keep mask.
    """
    t, h, w, d = x.shape
    rows = x.reshape(t, h * w, d)
    keep = [[True] * (h * w) for _ in range(t)]
    for n in range(1, t):
        for place in range(h * w):
            similarity = F.cosine_similarity(rows[n, place], rows[n - 1, place], dim=0).item()
            keep[n][place] = not similarity > tau
    return torch.tensor(keep, dtype=torch.bool, device=x.device).view(t, h, w)
