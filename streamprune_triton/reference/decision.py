"""From scores to decisions: similarities, candidates, thresholds, budgets. NaN: there was nothing to compare with."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..rule import Rule
from .scores import Scores

EPS = 1e-8


def decide(
    scores: Scores, reference_norms: torch.Tensor, first_frame: torch.Tensor, rule: Rule
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(keep, temporal, spatial), each (T, H, W), of frames that follow `first_frame` frames of their stream."""
    norms = scores.squared_norms
    t, h, w = norms.shape
    numbers = first_frame + torch.arange(t, device=norms.device)
    temporal = cosine(scores.previous, norms, torch.cat([reference_norms[None], norms[:-1]]))
    finite = ~norms.isnan()
    keyframe = torch.zeros_like(finite)
    if rule.keyframe_interval:
        keyframe = keyframe | (numbers % rule.keyframe_interval == 0)[:, None, None]

    drop_temporal = (temporal > rule.temporal_threshold) & ~keyframe
    survivor = ~drop_temporal if rule.survivors else torch.ones_like(finite)
    candidate = candidates(h, w, numbers, rule)
    spatial = torch.full_like(temporal, torch.nan)
    if rule.mask_kind != "none":
        spatial = highest_neighbor(scores, survivor)
    keep = finite & (keyframe | ~(drop_temporal | (candidate & (spatial > rule.spatial_threshold))))

    if rule.keep_tokens >= 0 or rule.max_tokens >= 0:
        redundancy = redundancies(temporal, spatial, candidate)
        budget = rule.keep_tokens if rule.keep_tokens >= 0 else rule.max_tokens
        segments = (1, -1) if rule.clip else (t, -1)
        chosen = least_redundant(redundancy.reshape(segments), (keep & ~keyframe).reshape(segments), budget)
        keep = chosen.view_as(keep) | (keep & keyframe)
    return keep, temporal, spatial


def cosine(dots: torch.Tensor, squared_a: torch.Tensor, squared_b: torch.Tensor) -> torch.Tensor:
    """cos(a, b) = a.b / (max(|a|, eps) * max(|b|, eps)), in [-1, 1].

    NaN where a or b is not finite; 0 where a squared norm overflows float32, as for a zero vector.
    """
    cos = (dots / (squared_a.sqrt().clamp_min(EPS) * squared_b.sqrt().clamp_min(EPS))).clamp(-1, 1)
    cos = cos.masked_fill(squared_a.isinf() | squared_b.isinf(), 0.0)
    return cos.masked_fill(squared_a.isnan() | squared_b.isnan(), torch.nan)


def highest_neighbor(scores: Scores, survivor: torch.Tensor) -> torch.Tensor:
    """s_s: the highest cosine to a surviving, finite 4-neighbour; NaN without one."""
    norms = scores.squared_norms
    right = cosine(scores.right, norms[:, :, :-1], norms[:, :, 1:]).nan_to_num(nan=-torch.inf)
    down = cosine(scores.down, norms[:, :-1], norms[:, 1:]).nan_to_num(nan=-torch.inf)
    best = torch.full_like(norms, -torch.inf)
    for here, there, edge in (
        (best[:, :, :-1], survivor[:, :, 1:], right),
        (best[:, :, 1:], survivor[:, :, :-1], right),
        (best[:, :-1], survivor[:, 1:], down),
        (best[:, 1:], survivor[:, :-1], down),
    ):
        here.copy_(here.maximum(edge.masked_fill(~there, -torch.inf)))
    return best.masked_fill(best.isinf(), torch.nan)


def candidates(h: int, w: int, numbers: torch.Tensor, rule: Rule) -> torch.Tensor:
    """(T, H, W) bool: which tokens the spatial stage may drop; `numbers` (T,) count the stream's frames."""
    i = torch.arange(h, device=numbers.device)[:, None]
    j = torch.arange(w, device=numbers.device)[None, :]
    n = numbers[:, None, None]
    by_name: dict[str, Callable[[], torch.Tensor | None]] = {
        "checkerboard": lambda: (i + j) % 2 == 1,
        "checkerboard_even": lambda: (i + j) % 2 == 0,
        "alternate": lambda: (i + j + n) % 2 == 1,
        "rows": lambda: i % 2 == 1,
        "columns": lambda: j % 2 == 1,
        "all": lambda: i >= 0,
        "none": lambda: i < 0,
        "tensor": lambda: rule.mask,
    }
    mask = by_name[rule.mask_kind]()
    assert mask is not None
    return mask.expand(len(numbers), h, w)


def redundancies(temporal: torch.Tensor, spatial: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
    """(T, H, W) what a budget ranks by: r = max(s_t, s_s where candidate), a missing part counts as -1.

    Without s_t a token that is no candidate has r = (s_s - 1) / 2: it goes after candidates as like their neighbours.
    """
    beside = spatial.nan_to_num(nan=-1.0)
    alone = torch.where(temporal.isnan(), (beside - 1) * 0.5, -1.0)
    return temporal.nan_to_num(nan=-1.0).maximum(torch.where(candidate, beside, alone))


def least_redundant(redundancy: torch.Tensor, eligible: torch.Tensor, budget: int) -> torch.Tensor:
    """(S, N) bool: in each of S segments the `budget` eligible tokens of least redundancy, ties to the lower index."""
    order = redundancy.masked_fill(~eligible, torch.inf).argsort(dim=1, stable=True)[:, :budget]
    chosen = torch.zeros_like(eligible).scatter_(1, order, torch.ones_like(order, dtype=torch.bool))
    return chosen & eligible
