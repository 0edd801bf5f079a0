"""Peers at an exact budget over the clip, on the formulas of `benchmarks.peers`.

All but EVS look at the whole clip before they choose: on a stream, where a question is asked before the end, they could
not. They are given it, which is to their advantage.
"""

from __future__ import annotations

import torch

from streamprune_triton import compat

from ...peers import divprune as diverse
from ...peers.vidcom2 import redundancies

ROUND = 8  # of the tokens that are left, ToMe takes at most one in so many at a time


def evs(x: torch.Tensor, count: int) -> torch.Tensor:
    """EVS, as vLLM and SGLang have it.

    Its cosine is DTD's, and both keep the tokens that differ most from the step before: they part in ties alone. EVS
    never keeps less than one step; below that budget the first tokens of that step stay, as under DTD.
    """
    share = 1 - (count + 0.5) / x[..., 0].numel()  # what it rounds down is `count`
    return compat.compute_retention_mask(x, x.shape[:3], 1, share).nonzero()[:count, 0]


def vidcom2(x: torch.Tensor, count: int) -> torch.Tensor:
    """VidCom2 (arXiv 2505.14454).

    Its budgets of steps are rounded each by itself, to at least one token. Here they are rounded down, and the largest
    remainders get what is left to `count`, so that a step may get none.
    """
    redundancy, excess = redundancies(x)
    size = redundancy.shape[1]
    share = (count / redundancy.numel() * (1 + excess)).clamp(max=1).double() * size
    share = share * (count / share.sum())
    budgets = share.floor().clamp(max=size)
    more = count - int(budgets.sum())
    budgets[(share - budgets).argsort(descending=True, stable=True)[:more]] += 1
    rank = redundancy.argsort(dim=1, stable=True).argsort(dim=1)
    return (rank < budgets[:, None]).flatten().nonzero()[:, 0]


def divprune(x: torch.Tensor, count: int) -> torch.Tensor:
    """DivPrune (arXiv 2503.02175), whose budget is exact: the most diverse tokens of the clip."""
    return diverse(x, count).flatten().nonzero()[:, 0]


def tome(x: torch.Tensor, count: int) -> torch.Tensor:
    """ToMe's bipartite matching (arXiv 2210.09461) over the whole clip, as often as the budget needs.

    In each round the tokens that are left are split by turns; of the first half those go that are most similar to any
    token of the second, at most one in ROUND of all, as ToMe spreads its merging over layers. What is matched is
    dropped where ToMe takes a mean: the tokens that stay are their own.
    """
    unit = torch.nn.functional.normalize(x.flatten(0, 2), dim=-1)
    similarity = unit @ unit.T
    left = torch.arange(len(unit))
    while len(left) > count:
        best = similarity[left[::2]][:, left[1::2]].amax(1)
        going = best.topk(min(len(left) - count, -(-len(left) // ROUND))).indices
        stays = torch.ones(len(left), dtype=torch.bool)
        stays[2 * going] = False
        left = left[stays]
    return left
