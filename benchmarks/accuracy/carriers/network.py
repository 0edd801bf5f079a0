"""The network with carriers in its sequences, and losses on what they tell."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..batch import AREA, Batch, places
from ..network import Losses, Network
from ..packing import Packed
from .knowledge import Knowledge, Spot, facts
from .sequences import SLOTS, entries, pack, with_carriers


class CarrierNetwork(Network):
    """A Qwen2.5-VL with heads on the states of carriers.

    Args:
        model: of `shapes.model.build`.
        processor: its.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        width = model.config.text_config.hidden_size
        self.pool, self.early, self.late = Knowledge(width), Knowledge(width), Knowledge(width)
        self.spot, self.spot_early = Spot(width), Spot(width)

    @property
    def carrier_heads(self) -> list[nn.Module]:
        """Trained with the language model."""
        return [self.early, self.late, self.spot, self.spot_early]

    def asked(
        self, batch: Batch, keep: torch.Tensor, dies: torch.Tensor, behind_time: torch.Tensor, blank: bool = False
    ) -> tuple[Packed, tuple[torch.Tensor, ...]]:
        """A batch packed with carriers, and its hidden states.

        Args:
            batch: B clips.
            keep: (B, K) tokens that are read before their step's carrier, -1 for none.
            dies: (B, T, 2) of `lives.batched`.
            behind_time: (B,) bool, see `packing.pack`.
            blank: with a zero vector for the embedding of every carrier.
        """
        x = with_carriers(batch.x)
        if blank:
            x = torch.cat([x[:, :, :AREA], torch.zeros_like(x[:, :, AREA:])], 2)
        packed = pack(batch, self.words, entries(keep, x.shape[1]), dies, behind_time)
        return packed, self.read(x, packed)

    def carrier_losses(
        self, batch: Batch, keep: torch.Tensor, dies: torch.Tensor, behind_time: torch.Tensor
    ) -> tuple[Losses, torch.Tensor]:
        """The losses of answers and of what carriers tell, and (B, Q) bool: which questions are answered right."""
        packed, hidden = self.asked(batch, keep, dies, behind_time)
        losses, right = self.answered(batch, packed, hidden[-1])
        first, steps = len(self.words.before), batch.x.shape[1]
        at = first + (packed.keep % SLOTS == AREA).nonzero()[:, 1].view(batch.size, steps)
        known = facts(batch.labels, steps)
        at = at[..., None].expand(-1, -1, hidden[0].shape[-1])
        early, late = hidden[2].gather(1, at), hidden[3].gather(1, at)
        again = {f"{name} later": loss for name, loss in self.late.of_now(late, known).items()}
        losses |= self.early.of_now(early, known) | again | self.late.of_past(late, known)
        return (losses | self._spotted(batch, packed, hidden) if keep.shape[1] else losses), right

    def _spotted(self, batch: Batch, packed: Packed, hidden: tuple[torch.Tensor, ...]) -> Losses:
        """The losses of visual tokens, of which each clip has as many."""
        first = len(self.words.before)
        token = packed.keep % SLOTS != AREA
        at = (packed.keep // SLOTS * AREA + packed.keep % SLOTS)[token].view(batch.size, -1)
        colour, offset = batch.labels["colour"].gather(1, at), batch.labels["offset"]
        centre = places().flip(-1)[at % AREA] + offset.gather(1, at[..., None].expand(-1, -1, 2))
        rows = slice(first, first + packed.keep.shape[1])
        early, late = (each[:, rows][token].view(*at.shape, -1) for each in hidden[1:3])
        return {"spot early": self.spot_early(early, colour, centre), "spot": self.spot(late, colour, centre)}

    def pooled(self, batch: Batch) -> Losses:
        """The losses of carriers' embeddings themselves."""
        found = self.pool.of_now(with_carriers(batch.x)[:, :, AREA], facts(batch.labels, batch.x.shape[1]))
        return {f"pooled {name}": loss for name, loss in found.items()}
