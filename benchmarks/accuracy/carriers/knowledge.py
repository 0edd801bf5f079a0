"""What a carrier is taught to tell of its step and of all steps so far, colour by colour; used in training alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from streamprune_triton.shapes.rules import WAYS
from streamprune_triton.shapes.world import COLOURS, KINDS

from ..batch import AREA, GRID, places

C = len(COLOURS)
Losses = dict[str, torch.Tensor]
_NOW = (1, len(KINDS), len(WAYS), GRID, GRID)  # there or not, kind, way, row, column
_PAST = (2, GRID, GRID, 2)  # seen and gone, row, column, which came first and which last


class Knowledge(nn.Module):
    """Linear heads on inner states of carriers.

    Args:
        width: of the states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.now = nn.Linear(width, C * sum(_NOW))
        self.past = nn.Linear(width, C * sum(_PAST))

    def of_now(self, states: torch.Tensor, facts: Losses) -> Losses:
        """Losses of states (B, T, D) about their own step."""
        there, kind, way, row, column = self.now(_even(states)).unflatten(-1, (C, -1)).split(_NOW, -1)
        shown = facts["there"]
        return {
            "there": F.binary_cross_entropy_with_logits(there[..., 0], shown.float()),
            "kind": 0.5 * F.cross_entropy(kind[shown], facts["kind"][shown]),
            "way": 0.5 * F.cross_entropy(way[shown], facts["way"][shown]),
            "at": _placed(row[shown], column[shown], facts["at"][shown]),
        }

    def of_past(self, states: torch.Tensor, facts: Losses) -> Losses:
        """Losses of states (B, T, D) about all steps up to their own."""
        sets, row, column, came = self.past(_even(states)).unflatten(-1, (C, -1)).split(_PAST, -1)
        seen = facts["seen"]
        wanted = torch.stack([seen, facts["gone"]], -1).float()
        return {
            "sets": F.binary_cross_entropy_with_logits(sets, wanted),
            "was at": _placed(row[seen], column[seen], facts["was at"][seen]),
            "first": 0.2 * _chosen(came[..., 0], facts["onset"], seen, 1),
            "last": 0.2 * _chosen(came[..., 1], facts["onset"], seen, -1),
        }


def _even(states: torch.Tensor) -> torch.Tensor:
    """States of the layers are of very different length."""
    return F.layer_norm(states, states.shape[-1:])


def _placed(row: torch.Tensor, column: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """How little the scores (N, GRID) say of the row and the column of places (N, 2), x and y in tokens."""
    x, y = at.round().long().clamp(0, GRID - 1).unbind(-1)
    return 0.3 * (F.cross_entropy(row, y) + F.cross_entropy(column, x))


def _chosen(score: torch.Tensor, onset: torch.Tensor, seen: torch.Tensor, sign: int) -> torch.Tensor:
    """How little the scores (B, T, C) say which seen colour came first (sign 1) or last (-1)."""
    rank = torch.where(seen, sign * onset, 1 << 20)
    some = seen.any(-1)
    return F.cross_entropy(score[some], rank.argmin(-1)[some])


class Spot(nn.Module):
    """A linear head on inner states of visual tokens: which colour is in which row and column, so that a mean over
    tokens tells it of all of them.

    Args:
        width: of the states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spot = nn.Linear(width, 2 * (1 + C * GRID))
        with torch.no_grad():
            self.spot.weight.zero_()
            self.spot.bias.view(2, -1)[:, 0] = 5.0  # most tokens show no shape

    def forward(self, states: torch.Tensor, colour: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """The loss of states (B, K, D) whose tokens show colours (B, K), 0 for none, centred at (B, K, 2), x and y."""
        row, column = self.spot(_even(states)).flatten(0, 1).chunk(2, -1)
        x, y = at.round().long().clamp(0, GRID - 1).flatten(0, 1).unbind(-1)
        first = 1 + (colour.flatten() - 1) * GRID
        shown = colour.flatten() > 0
        wanted = (torch.where(shown, first + place, 0) for place in (y, x))
        losses = [F.cross_entropy(score, where) for score, where in zip((row, column), wanted, strict=True)]
        return torch.stack(losses).sum()


def facts(labels: Losses, steps: int) -> Losses:
    """(B, T, C) each, of `batch.Clips.labels`: there, kind, way, seen, gone, onset; (B, T, C, 2): at, was at.

    Places are x and y in tokens; those of colours that are not there mean nothing.
    """

    def by_step(name: str) -> torch.Tensor:
        return labels[name].unflatten(1, (steps, AREA))

    shows = F.one_hot(by_step("colour"), 1 + C)[..., 1:]  # (B, T, AREA, C)
    amount = shows.sum(2)
    centre = places().flip(-1) + by_step("offset")
    at = torch.einsum("btac,btax->btcx", shows.float(), centre) / amount.clamp(min=1)[..., None]
    there = amount > 0
    seen = there.cumsum(1) > 0
    order = torch.arange(steps)[:, None].expand_as(there)
    latest = torch.where(there, order, 0).cummax(1).values
    left = F.one_hot(by_step("gone"), 1 + C)[..., 1:].amax(2)
    return {
        "there": there,
        "kind": (shows * (by_step("kind")[..., None] - 1)).amax(2),
        "way": (shows * (by_step("way")[..., None] - 1)).amax(2),
        "at": at,
        "seen": seen,
        "gone": left.cumsum(1) > 0,
        "onset": torch.where(there, order, 1 << 10).cummin(1).values,
        "was at": at.gather(1, latest[..., None].expand_as(at)),
    }
