"""The model in training: a batched tower, the packed language model, and dense losses that are dropped afterwards."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from streamprune_triton.shapes.rules import WAYS
from streamprune_triton.shapes.world import COLOURS, KINDS

from .batch import AREA, GRID, Batch, Words, patches, places
from .packing import Packed, least_redundant, pack, redundancy

C = len(COLOURS)
Losses = dict[str, torch.Tensor]
_SEES = {"colour": 1 + C, "kind": 1 + len(KINDS), "way": 1 + len(WAYS)}  # classes of a token, told by the tower
LONGEST = 32  # steps, the scale of the time that tokens tell


class Network(nn.Module):
    """A Qwen2.5-VL with heads on its inner states.

    Args:
        model: of `shapes.model.build`.
        processor: its.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model = model
        self.words = Words(processor)
        self._normal = (list(processor.image_processor.image_mean), list(processor.image_processor.image_std))
        width = model.config.text_config.hidden_size
        self.sees = nn.ModuleDict({name: nn.Linear(width, classes) for name, classes in _SEES.items()})
        self.offset = nn.Linear(width, 2)
        self.place = nn.Linear(width, 2 * GRID + 1)  # row, column, time
        self.event = nn.Linear(width, 2 * (1 + C))  # the colour that is new here, the colour that has left
        self.past = nn.Linear(width, 4 * C)  # seen, gone, first, last

    @property
    def tower_heads(self) -> list[nn.Module]:
        """Trained with the tower."""
        return [self.sees, self.offset]

    @property
    def text_heads(self) -> list[nn.Module]:
        """Trained with the language model."""
        return [self.place, self.event, self.past]

    def features(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, T, AREA, D) visual tokens of frames (B, 2T, SIDE, SIDE, 3)."""
        found = tower(self.model.model.visual, patches(frames, *self._normal))
        return found.view(len(frames), -1, AREA, found.shape[-1])

    def read(self, x: torch.Tensor, packed: Packed) -> tuple[torch.Tensor, ...]:
        """Hidden states (B, L, D) in front of each layer and behind the last, normalised."""
        embed = self.model.get_input_embeddings()
        visual = x.flatten(1, 2).gather(1, packed.keep[..., None].expand(-1, -1, x.shape[-1]))
        before = embed(self.words.before).expand(len(x), -1, -1)
        rows = torch.cat([before, visual, embed(packed.ids).flatten(1, 2)], 1)
        mask = torch.zeros(packed.mask.shape, dtype=rows.dtype).masked_fill_(~packed.mask, float("-inf"))
        out = self.model.model.language_model(
            inputs_embeds=rows,
            attention_mask={"full_attention": mask},
            position_ids=packed.positions,
            use_cache=False,
            output_hidden_states=True,
        )
        return (*out.hidden_states[:-1], out.last_hidden_state)

    def answer(self, last: torch.Tensor, asks: torch.Tensor) -> torch.Tensor:
        """(B, Q, V) logits of the rows (B, Q) of the last hidden states."""
        rows = last.gather(1, asks[..., None].expand(-1, -1, last.shape[-1]))
        return self.model.lm_head(rows)

    def losses(self, batch: Batch, keep: torch.Tensor, behind_time: torch.Tensor) -> tuple[Losses, torch.Tensor]:
        """The losses of the language model, and (B, Q) bool: which questions are answered right."""
        packed = pack(batch, self.words, keep, behind_time)
        hidden = self.read(batch.x, packed)
        losses, right = self.answered(batch, packed, hidden[-1])
        return losses | self._known(batch, packed, hidden), right

    def answered(self, batch: Batch, packed: Packed, last: torch.Tensor) -> tuple[Losses, torch.Tensor]:
        """The losses of answers and of their ends, and (B, Q) bool: which are right."""
        target = self.words.answers[batch.answer.clamp(min=0)]
        logits, end = self.answer(last, packed.asks), self.answer(last, packed.asks + 1)
        ends = torch.full_like(target, self.words.end)
        losses = {
            "answer": F.cross_entropy(logits[packed.valid], target[packed.valid]),
            "end": 0.1 * F.cross_entropy(end[packed.valid], ends[packed.valid]),
        }
        return losses, (logits.argmax(-1) == target) & packed.valid

    def seen(self, x: torch.Tensor, labels: Losses) -> Losses:
        """The losses of the tower's tokens x (B, T, AREA, D): what is in them."""
        losses = {
            name: F.cross_entropy(head(x).flatten(0, 2), labels[name].flatten()) for name, head in self.sees.items()
        }
        there = labels["colour"] > 0
        offset = self.offset(x).flatten(1, 2)[there]
        return losses | {"offset": F.smooth_l1_loss(offset, labels["offset"][there])}

    def _known(self, batch: Batch, packed: Packed, hidden: tuple[torch.Tensor, ...]) -> Losses:
        """What a visual token can know of the kept tokens up to itself."""
        rows = slice(len(self.words.before), len(self.words.before) + packed.keep.shape[1])
        place, step = places()[packed.keep % AREA], packed.keep // AREA
        where = self.place(hidden[2][:, rows])
        row, column = where[..., :GRID].flatten(0, 1), where[..., GRID:-1].flatten(0, 1)
        colour = batch.labels["colour"].gather(1, packed.keep)
        gone = batch.labels["gone"].gather(1, packed.keep)
        new, seen, first, last = history(colour)
        event = self.event(hidden[2][:, rows])
        told = self.past(hidden[3][:, rows]).unflatten(-1, (4, C))
        any_seen = seen.any(-1)
        over = F.one_hot(gone, 1 + C)[..., 1:].cumsum(1) > 0
        return {
            "row": 0.3 * F.cross_entropy(row, place[..., 0].flatten()),
            "column": 0.3 * F.cross_entropy(column, place[..., 1].flatten()),
            "time": 0.5 * F.mse_loss(where[..., -1], step / LONGEST),
            "new": 0.3 * F.cross_entropy(event[..., : 1 + C].flatten(0, 1), new.flatten()),
            "gone": 0.3 * F.cross_entropy(event[..., 1 + C :].flatten(0, 1), gone.flatten()),
            "seen_set": 0.3 * F.binary_cross_entropy_with_logits(told[:, :, 0], seen.float()),
            "gone_set": 0.3 * F.binary_cross_entropy_with_logits(told[:, :, 1], over.float()),
            "first": 0.1 * F.cross_entropy(told[:, :, 2][any_seen], first[any_seen]),
            "last": 0.1 * F.cross_entropy(told[:, :, 3][any_seen], last[any_seen]),
        }


def history(colour: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a row of colour labels (B, K), 0 for none, tells up to each place.

    Returns:
        new (B, K): the label where it occurs for the first time, else 0; seen (B, K, C) bool; first and last (B, K):
        index of the colour that occurred first, and of the one that was new last; 0 where there is none yet.
    """
    one_hot = F.one_hot(colour, 1 + C)[..., 1:]
    total = one_hot.cumsum(1)
    seen = total > 0
    begins = (one_hot > 0) & (total == 1)
    new = torch.where(begins.any(-1), colour, 0)
    order = torch.arange(colour.shape[1], device=colour.device)
    latest = torch.where(new > 0, order, -1).cummax(1).values
    last = new.gather(1, latest.clamp(min=0)) - 1
    earliest = (new > 0).int().argmax(1, keepdim=True)
    first = new.gather(1, earliest).expand_as(colour) - 1
    return new, seen, first.clamp(min=0), last.clamp(min=0)


def tower(visual: Any, cut: torch.Tensor) -> torch.Tensor:
    """(N, AREA, D) of the patches (N, 4*AREA, pixels) of N steps: the vision tower on all steps in one batch.

    The same sums as `visual(patches, grid_thw)`, which goes through the steps one by one.
    """
    steps, count, _ = cut.shape
    h = visual.patch_embed(cut.flatten(0, 1)).view(steps, count, -1)
    heads = visual.blocks[0].attn.num_heads
    cos, sin = _rotary(h.shape[-1] // heads)
    for block in visual.blocks:
        qkv = block.attn.qkv(block.norm1(h)).view(steps, count, 3, heads, -1).permute(2, 0, 3, 1, 4)
        q, k = (each * cos + _half(each) * sin for each in qkv[:2])
        mixed = F.scaled_dot_product_attention(q, k, qkv[2])
        h = h + block.attn.proj(mixed.transpose(1, 2).reshape(steps, count, -1))
        h = h + block.mlp(block.norm2(h))
    return visual.merger(h).view(steps, count // 4, -1)


def _rotary(channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(4*AREA, channels) cosine and sine: half of the channels turn with a patch's row, half with its column."""
    corner = places()[:, None] * 2
    inner = torch.tensor([(0, 0), (0, 1), (1, 0), (1, 1)])
    place = (corner + inner).flatten(0, 1).float()
    rate = 1e4 ** -(torch.arange(0, channels // 2, 2) / (channels // 2))
    angle = (place[..., None] * rate).flatten(1).repeat(1, 2)
    return angle.cos(), angle.sin()


def _half(x: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([-b, a], -1)


def chosen(x: torch.Tensor, count: int, way: str = "temporal", noise: float = 0.0) -> torch.Tensor:
    """(B, count) tokens to keep of features (B, T, AREA, D), see `redundancy`, with some noise in the order."""
    rank = redundancy(x.detach(), way)
    return least_redundant(rank + noise * torch.rand_like(rank), count)
