"""What one call of the pruning step returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from .state import StreamState


@dataclass(frozen=True, eq=False, repr=False)
class PaddedPruneResult:
    """The result of `prune_padded`: every shape is known before the features are, and nothing waited for the host.

    T frames of H x W tokens with D features; C is the capacity.

    Attributes:
        tokens: (C, D), dtype of the features. The kept tokens, bit-copies in raster-then-time order; rows from
            cu_counts[-1] on are not written.
        indices: (C,) int64 into T*H*W, one a row of tokens.
        keep: (T, H, W) bool.
        counts: (T,) int32, kept tokens a frame.
        cu_counts: (T + 1,) int32, their running sum: frame n's rows are cu_counts[n] to cu_counts[n + 1].
        carriers: (T, D), dtype of the features, or None for carrier=None.
        temporal: (T, H, W) float32, cosine to the reference token, NaN where there is none.
        spatial: (T, H, W) float32, highest cosine to a 4-neighbour that counts, NaN where there is none or mask=None.
        nonfinite: () int64, tokens dropped for a NaN or Inf.
        overflow: () bool, more tokens were left than the capacity; the first C in order are kept.
        state: what the next call of the same stream is given.
    """

    tokens: torch.Tensor
    indices: torch.Tensor
    keep: torch.Tensor
    counts: torch.Tensor
    cu_counts: torch.Tensor
    carriers: torch.Tensor | None
    temporal: torch.Tensor
    spatial: torch.Tensor
    nonfinite: torch.Tensor
    overflow: torch.Tensor
    state: StreamState

    def __repr__(self) -> str:
        t, h, w = self.keep.shape
        shape = f"frames={t}, grid=({h}, {w}), capacity={len(self.indices)}"
        return f"PaddedPruneResult({shape}, carriers={self.carriers is not None})"


class PruneResult:
    """The result of `prune`: as PaddedPruneResult, with tokens and indices cut to the kept ones.

    The number of kept tokens is data. It stays on the device until `tokens`, `indices` or `drop_ratio` is read, which
    waits for the device once.

    Attributes:
        tokens: (K, D), dtype of the features, bit-copies of the kept tokens in raster-then-time order.
        indices: (K,) int64 into T*H*W.
        keep, counts, cu_counts, carriers, temporal, spatial, nonfinite, state: as in PaddedPruneResult.
        drop_ratio: share of the T*H*W tokens that is not kept, 0.0 without frames.
    """

    def __init__(self, padded: PaddedPruneResult) -> None:
        self.keep = padded.keep
        self.counts = padded.counts
        self.cu_counts = padded.cu_counts
        self.carriers = padded.carriers
        self.temporal = padded.temporal
        self.spatial = padded.spatial
        self.nonfinite = padded.nonfinite
        self.state = padded.state
        self._padded: tuple[torch.Tensor, ...] = (padded.tokens, padded.indices)
        self._count: int | None = None

    def settle(self, kept: int) -> None:
        """Notes how many tokens are kept, where the host knows it already, so that nothing has to wait for it."""
        self._count = kept

    @cached_property
    def _kept(self) -> tuple[torch.Tensor, torch.Tensor]:
        kept = int(self.cu_counts[-1]) if self._count is None else self._count
        # tokens that have a gradient have it wherever they are read first
        with torch.inference_mode(False), torch.enable_grad():
            tokens, indices = (rows[:kept] for rows in self._padded)
            if _held(tokens) > 2 * tokens.nbytes:  # a view would hold on to the memory of all rows
                tokens, indices = tokens.clone(), indices.clone()
        self._padded = ()
        return tokens, indices

    @property
    def tokens(self) -> torch.Tensor:
        return self._kept[0]

    @property
    def indices(self) -> torch.Tensor:
        return self._kept[1]

    @property
    def drop_ratio(self) -> float:
        return 1.0 - int(self.cu_counts[-1]) / self.keep.numel() if self.keep.numel() else 0.0

    def __repr__(self) -> str:
        t, h, w = self.keep.shape
        return f"PruneResult(frames={t}, grid=({h}, {w}), carriers={self.carriers is not None})"


def _held(tensor: torch.Tensor) -> int:
    """Bytes of the memory that it is a view of; 0 where nothing tells, as under torch.func's transforms."""
    try:
        return tensor.untyped_storage().nbytes()
    except NotImplementedError:
        return 0
