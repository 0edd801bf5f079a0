"""One sequence for many questions, with carriers: text, each step's kept tokens and its carrier, then the questions.

A question about step n sees what a session's cache would hold after step n, at the session's positions; so does each
step what was held when it was read. One forward then gives all questions the logits of sessions asked one by one.
"""

from __future__ import annotations

import torch

from ..batch import AREA, GRID, Batch, Words, places
from ..packing import Packed
from .lives import FOREVER

SLOTS = AREA + 1  # of a step: its tokens in raster order, its carrier
CARRIER = AREA  # slot
NONE = -1  # a row that nothing sees


def with_carriers(x: torch.Tensor) -> torch.Tensor:
    """(B, T, SLOTS, D) of features (B, T, AREA, D): each step with its mean behind it, as `sp.prune` has it."""
    return torch.cat([x, x.float().mean(2, keepdim=True).to(x.dtype)], 2)


def entries(keep: torch.Tensor, steps: int) -> torch.Tensor:
    """(B, K + steps) which of steps * SLOTS rows stand in the sequence, ascending, NONE last: kept ones and carriers.

    Args:
        keep: (B, K) of steps * AREA tokens, ascending, NONE for places that are left empty.
        steps: T.
    """
    end = steps * SLOTS
    tokens = torch.where(keep >= 0, keep + keep.div(AREA, rounding_mode="floor"), end)
    carriers = torch.arange(steps, device=keep.device) * SLOTS + CARRIER
    rows = torch.cat([tokens, carriers.expand(len(keep), -1)], 1).sort(1).values
    return torch.where(rows < end, rows, NONE)


def pack(batch: Batch, words: Words, rows: torch.Tensor, dies: torch.Tensor, behind_time: torch.Tensor) -> Packed:
    """The sequences of a batch; `Packed.keep` are then rows of `with_carriers`.

    Args:
        batch: B clips.
        words: the ids.
        rows: (B, N) of `entries`.
        dies: (B, T, 2) of `lives.batched`.
        behind_time: (B,) bool, see `packing.pack`.
    """
    length = words.length[batch.text]
    ids = words.slots[batch.text].clone()
    ids.scatter_(2, length[..., None], words.answers[batch.answer.clamp(min=0)][..., None])
    first, size = len(words.before), ids.shape[2]
    base = first + torch.where(behind_time[:, None], (batch.step + 1).clamp(min=GRID), GRID)
    there = rows.clamp(min=0)
    asked = base[..., None] + torch.arange(size)
    return Packed(
        keep=there,
        ids=ids,
        positions=_positions(first, there, asked.flatten(1)),
        mask=_mask(first, *times(rows, dies), batch.step, size),
        asks=first + rows.shape[1] + torch.arange(ids.shape[1]) * size + length - 1,
        valid=batch.answer >= 0,
    )


def _positions(first: int, rows: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """(3, B, L). A carrier stands at its step's time and the centre of the grid."""
    text = torch.arange(first).expand(3, len(rows), -1)
    place = torch.cat([places(), torch.tensor([[GRID // 2, GRID // 2]])])[rows % SLOTS]
    visual = first + torch.stack([rows // SLOTS, place[..., 0], place[..., 1]])
    return torch.cat([text, visual, asked.expand(3, -1, -1)], -1)


def times(rows: torch.Tensor, dies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, N) each: when the rows are read, and when they die."""
    there = rows.clamp(min=0)
    step, carrier = there // SLOTS, (there % SLOTS == CARRIER).long()
    end = dies.flatten(1).gather(1, 2 * step + carrier)
    return 2 * step, torch.where(rows >= 0, end, NONE)


def _mask(first: int, time: torch.Tensor, dies: torch.Tensor, asked: torch.Tensor, size: int) -> torch.Tensor:
    """(B, 1, L, L): a row sees, of what was read before it, what still lives, and itself."""
    clips, count = asked.shape
    text = time.new_zeros(clips, first)
    time, dies = torch.cat([text, time], 1), torch.cat([text + FOREVER, dies], 1)
    context = time.shape[1]
    mask = torch.zeros(clips, context + count * size, context + count * size, dtype=torch.bool)
    lives = dies[:, None] > time[..., None]
    mask[:, :context, :context] = lives.tril() | torch.eye(context, dtype=torch.bool)
    when = (2 * asked + 1)[..., None]
    mask[:, context:, :context] = ((time[:, None] < when) & (dies[:, None] > when)).repeat_interleave(size, 1)
    mask[:, context:, context:] = torch.block_diag(*[torch.ones(size, size, dtype=torch.bool).tril()] * count)
    return mask[:, None]
