"""DTD, TimeChat-Online's differential token drop: as one expression, and with a host wait per token as published."""

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
    """Differential token drop (arXiv 2504.17343) with the bookkeeping per token of TimeChat-Online's code.

    Formula: that of `dtd`, with the same decisions, one frame at a time. Each frame's tokens are looked up one by one
    and gathered, and the row and column of every dropped token are read back, as the project logs them.
    Less than ours: as `dtd`, and no state from one call to the next. Less than published: there the gather waits once
    more for each token, and the position ids and embeddings are cut too.
    Host waits: one a token, four more a dropped token, two a frame.

    Args:
        x: (T, H, W, D) features.
        tau: cosine similarity above which a token is dropped.

    Returns:
        (T, H, W) bool keep mask.
    """
    t, h, w, d = x.shape
    tokens = x.reshape(-1, d)
    place = torch.arange(t * h * w, device=x.device)
    frames, rows, columns = place // (h * w), place // w % h, place % w
    keep = torch.ones(t * h * w, dtype=torch.bool, device=x.device)
    dropped_at: list[tuple[int | float, int | float]] = []
    before = None
    for n in range(t):
        sequence = [index.item() for index in (frames == n).nonzero().squeeze(1)]
        frame = tokens[sequence]
        if before is not None:
            similarity = F.cosine_similarity(before, frame, dim=1)
            dropped = (similarity > tau).nonzero().squeeze(1) + sequence[0]
            keep[dropped] = False
            dropped_at += [(rows[index].item(), columns[index].item()) for index in dropped]
        before = frame
    return keep.view(t, h, w)
