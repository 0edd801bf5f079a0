"""VidCom2: the tokens that stand out from their clip and from their frame, under a budget for each frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F

BANDWIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
TEMPERATURE = 0.01  # of the softmax over frames


def vidcom2(x: torch.Tensor, ratio: float) -> torch.Tensor:
    """Video Compression Commander (arXiv 2505.14454).

    Formula: over the half of the channels with the lowest variance, normalised, a token's likeness to a centre c is
    g(c) = sum over a of exp(-|u - c|^2 / 2a), a = 1/8 ... 2. Frame n may keep the share ratio * (1 + p_n - mean p) of
    its tokens, at most all and at least one, with p = softmax(-mean over the frame of g(clip's mean) / 0.01). Kept are
    those of least g(clip's mean) + g(frame's mean). In the features' own dtype; the budget in fp32.
    Less than ours: compares with means, not with neighbours in time or space; whole clips only; no gather. The count
    follows the budgets' rounding (vLLM's port then corrects it to an exact one).
    Host waits: none (published: one, for the budgets). The ranks take two sorts a frame in place of a loop of top-k.

    Args:
        x: (T, H, W, D) features.
        ratio: share of the tokens to keep, in [0, 1].

    Returns:
        (T, H, W) bool keep mask.
    """
    redundancy, excess = redundancies(x)
    n = redundancy.shape[1]
    budget = ((ratio * (1 + excess)).clamp(max=1) * n).round().clamp(1, n)
    rank = redundancy.argsort(dim=1, stable=True).argsort(dim=1)
    return (rank < budget[:, None]).view(x.shape[:3])


def redundancies(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(T, N) what a frame's tokens are ranked by, highest goes first; (T,) what its share has beyond the mean."""
    tokens = x.flatten(1, 2)
    d = tokens.shape[2]
    calm = tokens.flatten(0, 1).var(0, correction=0).topk(max(1, d // 2), largest=False).indices
    unit = F.normalize(tokens[..., calm], dim=-1)
    to_clip = _likeness(unit, unit.mean((0, 1), keepdim=True))
    to_frame = _likeness(unit, unit.mean(1, keepdim=True))
    share = (-to_clip.float().mean(1) / TEMPERATURE).softmax(0)
    return to_clip + to_frame, share - share.mean()


def _likeness(unit: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """(T, N): Gaussian similarity to a centre, summed over the bandwidths."""
    squared = (unit - centre).square().sum(-1)
    return torch.stack([(-squared / (2 * a)).exp() for a in BANDWIDTHS]).sum(0)
