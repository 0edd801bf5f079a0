"""ToMe: one step of bipartite token merging inside each frame."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F


class Merged(NamedTuple):
    """One step's outcome."""

    keep: torch.Tensor  # (T, H, W) bool: the tokens that others were merged into, or that were left alone
    tokens: torch.Tensor  # (T, H*W - r, D): even places left alone, by their similarity, then the odd ones


def tome_step(x: torch.Tensor, r: int) -> Merged:
    """Token merging (ToMe, arXiv 2210.09461), one step, on the features in place of a layer's attention keys.

    Formula: in each frame, places in raster order are split into even and odd ones; every even token finds the odd one
    of highest cosine; the r even tokens with the highest are merged into theirs, by the mean of all that meet there.
    In the features' own dtype.
    Less than ours: inside a frame only, at most half of it a step, no exact copies (values are averages), tokens come
    out of order. More than ours: nothing is thrown away, and every pair of a frame is compared, not neighbours alone.
    The order of a mean's sum is not fixed on a GPU. Host waits: none.

    Args:
        x: (T, H, W, D) features.
        r: tokens of each frame to merge away, at most H*W // 2; 0 returns the tokens as they came.

    Returns:
        Merged: which tokens survive, and the merged values, which are part of the cost.
    """
    t, h, w, d = x.shape
    tokens = x.flatten(1, 2)
    r = max(0, min(r, h * w // 2))
    keep = torch.ones(t, h * w, dtype=torch.bool, device=x.device)
    if r == 0:
        return Merged(keep.view(t, h, w), tokens)
    even, odd, unit = tokens[:, ::2], tokens[:, 1::2], F.normalize(tokens, dim=-1)
    similarity, partner = (unit[:, ::2] @ unit[:, 1::2].mT).max(-1)
    order = similarity.argsort(1, descending=True)
    gone, left = order[:, :r], order[:, r:]
    into = partner.gather(1, gone)[..., None].expand(-1, -1, d)
    merged = odd.scatter_reduce(1, into, even.gather(1, gone[..., None].expand(-1, -1, d)), "mean")
    alone = even.gather(1, left[..., None].expand(-1, -1, d))
    keep.scatter_(1, 2 * gone, False)
    return Merged(keep.view(t, h, w), torch.cat([alone, merged], 1))
