"""The honest control: our own step at its defaults as a PyTorch user would write it, without kernels and blocking."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F


class Step(NamedTuple):
    """What the step leaves."""

    keep: torch.Tensor  # (T, H, W) bool
    tokens: torch.Tensor  # (K, D), bit-copies
    indices: torch.Tensor  # (K,) int64 into T*H*W
    carriers: torch.Tensor  # (T, D)


def eager_step(
    x: torch.Tensor,
    temporal_threshold: float = 0.2,
    spatial_threshold: float = 0.5,
    reference: torch.Tensor | None = None,
) -> Step:
    """DTD, MSSAVT on the checkerboard, the mean of each frame and the gather, in about 32 operators.

    Formula: that of `streamprune_triton.prune` at its defaults (arXiv 2512.12560, 2503.09387): dropped where the cosine
    to the frame before is above `temporal_threshold`, or at odd i + j where the highest cosine to a 4-neighbour is
    above `spatial_threshold`. Cosines and means in fp32, from an upcast copy of all features.
    Less than ours: this one configuration only, no scores returned, non-finite tokens unguarded, and the bits depend
    on how a stream is cut. More than ours: memory for two fp32 copies of the
    features, and for a third of features that are not fp32.
    Host waits: one, for the number of kept tokens.

    Args:
        x: (T, H, W, D) features.
        temporal_threshold, spatial_threshold: as in `PruneConfig`.
        reference: (H, W, D), the last frame of the chunk before.

    Returns:
        Step.
    """
    t, h, w, d = x.shape
    f = x.float()
    unit = f / f.norm(dim=-1, keepdim=True).clamp_min(1e-8)
    temporal = f.new_full((t, h, w), -torch.inf)
    temporal[1:] = (unit[1:] * unit[:-1]).sum(-1)
    if reference is not None:
        temporal[0] = F.cosine_similarity(f[0], reference.float(), dim=-1)
    right = (unit[:, :, 1:] * unit[:, :, :-1]).sum(-1)
    down = (unit[:, 1:] * unit[:, :-1]).sum(-1)
    edges = ((right, (0, 1)), (right, (1, 0)), (down, (0, 0, 0, 1)), (down, (0, 0, 1, 0)))
    spatial = torch.stack([F.pad(edge, side, value=-torch.inf) for edge, side in edges]).amax(0)
    odd = (torch.arange(h, device=x.device)[:, None] + torch.arange(w, device=x.device)) % 2 == 1
    keep = ~((temporal > temporal_threshold) | (odd & (spatial > spatial_threshold)))
    indices = keep.flatten().nonzero().squeeze(1)
    return Step(keep, x.reshape(-1, d)[indices], indices, f.mean((1, 2)).to(x.dtype))
