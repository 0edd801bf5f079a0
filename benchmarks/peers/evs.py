"""EVS: the least similar tokens of a clip, compared with the frame before, to an exact count."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def evs(x: torch.Tensor, q: float) -> torch.Tensor:
    """Efficient Video Sampling (arXiv 2510.14624; in vLLM, SGLang and TensorRT-LLM).

    Formula: d = 1 - cos(x[n], x[n-1]) per place, in the features' own dtype; 255 in frame 0, which is so kept whole.
    Kept are the max(H*W, int(T*H*W * (1 - q))) tokens of largest d over the clip, by a stable descending sort.
    Less than ours: no spatial part, no mean, no state from one call to the next, no gather of the tokens.
    Host waits: none.

    Args:
        x: (T, H, W, D) features.
        q: share of the tokens to drop, in [0, 1].

    Returns:
        (T, H, W) bool keep mask.
    """
    t, h, w, _ = x.shape
    dissimilarity = x.new_full((t, h, w), 255.0)
    dissimilarity[1:] = 1 - F.cosine_similarity(x[1:], x[:-1], dim=-1)
    kept = max(h * w, int(t * h * w * (1 - q)))
    order = dissimilarity.flatten().argsort(descending=True, stable=True)
    keep = torch.zeros(t * h * w, dtype=torch.bool, device=x.device)
    keep.index_fill_(0, order[:kept], True)  # an assignment would copy the number to the GPU, and wait
    return keep.view(t, h, w)
