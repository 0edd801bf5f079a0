"""Which columns of a batch of prompts stay, and where the answer for each column is found afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Columns:
    """Columns of prompts (B, L), cut to the K of the row that keeps most; the others are padded on the left.

    Attributes:
        keep: (B, L) bool.
        index: (B, K) int64, the columns that stay, in order; in front of them dropped ones, as padding.
        valid: (B, K) bool, False on padding.
        source: (B, L) int64 into K: the last column that stayed up to each, or the first one that stayed.
    """

    keep: torch.Tensor
    index: torch.Tensor
    valid: torch.Tensor
    source: torch.Tensor

    @classmethod
    def of(cls, keep: torch.Tensor) -> Columns:
        """Waits for the device, once: K is data."""
        counts = keep.sum(1, keepdim=True)
        most = int(counts.max())
        index = keep.int().argsort(stable=True, dim=1)[:, keep.shape[1] - most :]
        padding = most - counts
        source = torch.maximum(padding + keep.cumsum(1) - 1, padding).clamp(max=most - 1)
        return cls(keep, index, keep.gather(1, index), source)

    def cut(self, values: torch.Tensor) -> torch.Tensor:
        """(..., B, L) -> (..., B, K)."""
        return values.gather(-1, self.index.expand(*values.shape[:-1], -1))

    def cut_rows(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, D) -> (B, K, D), with a gradient."""
        return x[torch.arange(len(x), device=x.device)[:, None], self.index]

    def cut_deepstack(self, given: dict[str, Any]) -> dict[str, Any]:
        """The decoder's DeepStack arguments (arXiv 2406.04334): rows of the visual tokens (B, L) in order."""
        visual, levels = given.get("visual_pos_masks"), given.get("deepstack_visual_embeds")
        if visual is None or levels is None:
            return {}
        stays = self.keep[visual]
        return {
            "visual_pos_masks": self.cut(visual) & self.valid,
            "deepstack_visual_embeds": [level[stays.to(level.device)] for level in levels],
        }

    def restore(self, x: torch.Tensor) -> torch.Tensor:
        """(B, K, D) -> (B, L, D): a dropped token has the row of the token that stayed before it."""
        return x[torch.arange(len(x), device=x.device)[:, None], self.source.to(x.device)]

    def restore_layers(self, layers: Any) -> Any:
        """The same for a tuple of hidden states. Attention maps, which have four axes, stay those of K columns.

        None stands for a layer that was not asked for.
        """
        if not isinstance(layers, tuple):
            return layers
        return tuple(self.restore(x) if x is not None and x.shape[:-1] == self.index.shape else x for x in layers)
