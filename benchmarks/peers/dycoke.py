"""DyCoke's temporal merging (TTM): of each pair of frames, the least similar tokens of the second."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def dycoke(x: torch.Tensor, ratio: float, windows: bool = True) -> torch.Tensor:
    """Token temporal merging of DyCoke (arXiv 2411.15024), without its later pruning of the KV cache.

    Formula: of the frames 0-1, 2-3, ... the first is kept whole, of the second the int((1 - ratio) * H*W) tokens least
    similar to the first's at their places. With `windows` the same is then done in every four frames to the third,
    against the first. Cosines in the features' own dtype.
    Less than ours: no spatial part, no mean, no threshold, no state; the window's phase depends on where a clip is cut.
    More than published: a last frame without a partner is kept (there it is lost), the third frame of the last window
    is compared too, T <= 4 works (there it fails), places stay in raster order, and all pairs share their operators.
    Host waits: none.

    Args:
        x: (T, H, W, D) features.
        ratio: share of a compared frame's tokens to drop, in [0, 1].
        windows: also compare the third frame of every four.

    Returns:
        (T, H, W) bool keep mask.
    """
    t = len(x)
    keep = torch.ones(x.shape[:3], dtype=torch.bool, device=x.device)
    keep[1::2] = _least_similar(x[: t - t % 2 : 2], x[1::2], ratio)
    if windows:
        thirds = x[2::4]
        keep[2::4] = _least_similar(x[: 4 * len(thirds) : 4], thirds, ratio)
    return keep


def _least_similar(first: torch.Tensor, second: torch.Tensor, ratio: float) -> torch.Tensor:
    """(P, H, W) bool: which tokens of each second frame stay."""
    similarity = F.cosine_similarity(first, second, dim=-1).flatten(1)
    kept = similarity.topk(int((1 - ratio) * similarity.shape[1]), dim=1, largest=False).indices
    return torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, kept, True).view(second.shape[:3])
