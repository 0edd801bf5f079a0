"""What is the same for families that see every raw frame as a picture of one size, in a sequence of 1-D positions."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..transfer import upload
from .base import Adapter, Features, inference
from .positions import Flat
from .processor import FrameProcessor

_locks: weakref.WeakKeyDictionary[torch.nn.Module, threading.Lock] = weakref.WeakKeyDictionary()


def _lock(model: torch.nn.Module) -> threading.Lock:
    """A model's own. These towers are asked for hidden states, which transformers 5.0 collects by patching the tower
    for the time of the call: two threads in it would get each other's."""
    return _locks.setdefault(model, threading.Lock())


class Frames(Adapter):
    """A family answers `side`, `rows` and `grids`."""

    @property
    def side(self) -> int:
        """H and W of a frame's tokens."""
        raise NotImplementedError

    def rows(self, pixels: torch.Tensor) -> Any:
        """The tower's answer for frames (N, 3, h, w): a tensor or several, (..., D), in all at least N*H*W rows."""
        raise NotImplementedError

    def pixels(self, frames: np.ndarray) -> torch.Tensor:
        """(N, 3, h, w) float32."""
        if isinstance(self.processor, FrameProcessor):
            return self.processor.pictures(frames)
        return self._processed([frames])["pixel_values_videos"][0]

    def features(self, pixels: torch.Tensor) -> Features:
        return self.many_features([pixels])[0]

    @inference
    def many_features(self, pixels: Sequence[torch.Tensor]) -> list[Features]:
        counts = [len(each) for each in pixels]
        with _lock(self.model):
            answer = self.rows(upload(torch.cat(list(pixels)), self.model.device))
        rows = torch.cat([each.flatten(0, -2) for each in answer])
        shape = (sum(counts), self.side, self.side)
        x = rows[: shape[0] * shape[1] * shape[2]].view(*shape, -1)
        return [Features(each) for each in x.split(counts)]

    def layout(self, before: torch.Tensor, grid: tuple[int, int], fps: float, carrier: bool) -> Flat:
        return Flat(grid, carrier)
