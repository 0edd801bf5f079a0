"""MSSAVT without its mask: the sequential variant that StreamingAssistant measures its own method against."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def sequential_mssavt(
    x: torch.Tensor, temporal_threshold: float | None, spatial_threshold: float | None
) -> torch.Tensor:
    """Sequential, unmasked spatial pruning behind DTD (arXiv 2512.12560, the variant at 23.6 ms there).

    Formula: first DTD at `temporal_threshold`; then, place by place in raster order, a token is dropped if its cosine
    to a 4-neighbour not dropped so far, by either stage, is above `spatial_threshold`. Cosines in fp32.
    Less than ours: no mean, no gather, no state. More than ours: every token is a candidate, so it can drop more, and
    it never looks at a dropped neighbour; both need the order, and the order needs the loop.
    The similarities of all edges are computed at once and all frames share the loop, which favours it.
    Host waits: none, but a chain of six operators for each place.

    Args:
        x: (T, H, W, D) features.
        temporal_threshold: cosine to the frame before above which a token is dropped; None drops none.
        spatial_threshold: cosine to a neighbour above which a token is dropped; None drops none.

    Returns:
        (T, H, W) bool keep mask.
    """
    t, h, w, _ = x.shape
    unit = F.normalize(x.float(), dim=-1, eps=1e-8)
    alive = torch.ones(t, h, w, dtype=torch.bool, device=x.device)
    if temporal_threshold is not None:
        alive[1:] = ~((unit[1:] * unit[:-1]).sum(-1) > temporal_threshold)
    if spatial_threshold is None:
        return alive
    right = (unit[:, :, 1:] * unit[:, :, :-1]).sum(-1) > spatial_threshold
    down = (unit[:, 1:] * unit[:, :-1]).sum(-1) > spatial_threshold
    edges = ((right, (1, 0)), (right, (0, 1)), (down, (0, 0, 1, 0)), (down, (0, 0, 0, 1)))
    similar = torch.stack([F.pad(edge, side) for edge, side in edges], -1)  # to the left, right, upper, lower neighbour
    alive = F.pad(alive, (1, 1, 1, 1))
    for i in range(h):
        for j in range(w):
            around = (alive[:, i + 1, j], alive[:, i + 1, j + 2], alive[:, i, j + 1], alive[:, i + 2, j + 1])
            alive[:, i + 1, j + 1] &= ~(similar[:, i, j] & torch.stack(around, -1)).any(-1)
    return alive[:, 1:-1, 1:-1]
