"""The questions that an adapter answers about its family of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import Cache

    from .positions import VideoPositions


class Prompt(NamedTuple):
    """Token ids around a video, as the unmodified model would be given them."""

    before: torch.Tensor  # (B,) int64
    after: torch.Tensor  # (A,) int64


class Adapter(Protocol):
    """One model and its processor, seen from a session. Tensors are on the model's device but for token ids.

    Attributes:
        frames_per_step: raw frames that make one temporal step of the model's grid.
    """

    frames_per_step: int

    def __init__(self, model: Any, processor: Any) -> None:
        """Raises TypeError where the processor lacks something."""

    def prompt(self, system: str | None, question: str) -> Prompt:
        """The conversation's token ids. Raises ValueError for a question that contains a video."""

    def patches(self, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels as the tower takes them, and their grid, of frames (N, height, width, 3) uint8; N whole steps."""

    def features(self, patches: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """(T, H, W, D): the visual tokens as the language model would receive them."""

    def positions(self, before: torch.Tensor, grid: tuple[int, int], fps: float) -> VideoPositions:
        """Where the tokens of a video of H x W = grid a step are, behind the text `before`."""

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """(L, D) embeddings of token ids (L,)."""

    def forward(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Cache) -> torch.Tensor:
        """(L, D) last hidden states behind what the cache holds, which grows by embeds (L, D) at positions (3, L)."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(L, V) of hidden states (L, D)."""
