"""One sequence for many questions: text, the kept tokens of a clip, then every question, none seeing another.

A question about step n sees the text in front, the tokens of steps up to n and itself, at the positions it would have
as the only question about a video that ends with step n. Its logits are those it would get alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .batch import AREA, GRID, Batch, Words, places

PADDING = -1


@dataclass(frozen=True)
class Packed:
    """Sequences of L = P + K + Q*S rows: P of text, K visual, Q slots of S.

    Attributes:
        keep: (B, K) which of a clip's T*AREA tokens the visual rows are, in order; any token for padding.
        ids: (B, Q, S) token ids of the slots, answers included.
        positions: (3, B, L).
        mask: (B, 1, L, L) bool, true where a row sees a column.
        asks: (B, Q) index of the row that predicts the answer, within a clip.
        valid: (B, Q) bool: there is a question in the slot.
    """

    keep: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    asks: torch.Tensor
    valid: torch.Tensor


def pack(batch: Batch, words: Words, keep: torch.Tensor, behind_time: torch.Tensor) -> Packed:
    """The sequences of a batch.

    Args:
        batch: B clips.
        words: the ids.
        keep: (B, K) int64, ascending; PADDING behind the tokens of a clip that keeps fewer than others. No row of
            text or of a kept token sees it.
        behind_time: (B,) bool: whether text starts behind the latest time of the video as well as behind its grid.
            Releases of transformers differ in this; a model trained on both is right in all.
    """
    length = words.length[batch.text]
    ids = words.slots[batch.text].clone()
    ids.scatter_(2, length[..., None], words.answers[batch.answer.clamp(min=0)][..., None])
    first = len(words.before)
    when = torch.where(keep == PADDING, batch.x.shape[1], keep // AREA)  # padding comes after every question
    keep = keep.clamp(min=0)
    base = first + torch.where(behind_time[:, None], (batch.step + 1).clamp(min=GRID), GRID)
    slot = torch.arange(ids.shape[2])
    return Packed(
        keep=keep,
        ids=ids,
        positions=_positions(first, keep, base, slot),
        mask=_mask(first, when, batch.step, slot),
        asks=first + keep.shape[1] + torch.arange(ids.shape[1]) * len(slot) + length - 1,
        valid=batch.answer >= 0,
    )


def _positions(first: int, keep: torch.Tensor, base: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
    text = torch.arange(first).expand(3, len(keep), -1)
    place = places()[keep % AREA]
    visual = first + torch.stack([keep // AREA, place[..., 0], place[..., 1]])
    asked = (base[..., None] + slot).flatten(1).expand(3, -1, -1)
    return torch.cat([text, visual, asked], -1)


def _mask(first: int, step: torch.Tensor, asked: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
    """(B, 1, L, L) of kept tokens' steps (B, K) and questions' steps (B, Q)."""
    clips, count = asked.shape
    context, size = first + step.shape[1], len(slot)
    total = context + count * size
    mask = torch.zeros(clips, total, total, dtype=torch.bool)
    mask[:, :context, :context] = torch.ones(context, context, dtype=torch.bool).tril()
    when = torch.cat([step.new_full((clips, first), -1), step], 1)
    mask[:, context:, :context] = (when[:, None] <= asked[..., None]).repeat_interleave(size, 1)
    own = torch.block_diag(*[torch.ones(size, size, dtype=torch.bool).tril()] * count)
    mask[:, context:, context:] = own
    return mask[:, None]


def redundancy(x: torch.Tensor, way: str = "temporal") -> torch.Tensor:
    """(B, T*AREA) of features (B, T, AREA, D): what an exact budget ranks by, higher goes first.

    Args:
        x: the features.
        way: "temporal", the cosine similarity to the step before (-1 in the first step); "spatial", that to the most
            similar 4-neighbour; "both", their maximum, the spatial one for tokens of odd row + column alone; "random".
    """
    if way == "random":
        return torch.rand(x.shape[:3], device=x.device).flatten(1)
    unit = torch.nn.functional.normalize(x, dim=-1)
    if way == "spatial":
        return _nearest(unit).flatten(1)
    rank = torch.full(x.shape[:3], -1.0, device=x.device)
    rank[:, 1:] = (unit[:, 1:] * unit[:, :-1]).sum(-1)
    if way == "both":
        odd = places().sum(1) % 2 == 1
        rank = torch.where(odd, torch.maximum(rank, _nearest(unit)), rank)
    return rank.flatten(1)


def _nearest(unit: torch.Tensor) -> torch.Tensor:
    """(B, T, AREA) the largest cosine with a 4-neighbour of unit vectors (B, T, AREA, D)."""
    grid = unit.unflatten(2, (GRID, GRID))
    down = torch.nn.functional.pad((grid[:, :, 1:] * grid[:, :, :-1]).sum(-1), (0, 0, 1, 1), value=-1.0)
    right = torch.nn.functional.pad((grid[..., 1:, :] * grid[..., :-1, :]).sum(-1), (1, 1), value=-1.0)
    return torch.stack([down[:, :, 1:], down[:, :, :-1], right[..., 1:], right[..., :-1]]).amax(0).flatten(2)


def least_redundant(rank: torch.Tensor, count: int) -> torch.Tensor:
    """(B, count) ascending indices of the lowest ranks (B, N)."""
    return rank.topk(count, dim=1, largest=False).indices.sort(dim=1).values
