"""Which questions about which clips were answered right: scores, groups of clips and paired differences come of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from streamprune_triton.shapes import questions

from .batch import Batch
from .measure import Score

ALL = "all"  # in place of a type: every question counts once
SPATIAL = "spatial"  # the types that ask where something is
GROUPS = {ALL: questions.TYPES, SPATIAL: ("place", "relation", "beside")}


@dataclass(frozen=True)
class Marks:
    """Q questions about each of N clips.

    Attributes:
        kind: (N, Q) index into `questions.TYPES`.
        asked: (N, Q) bool: there is a question.
        right: (N, Q) bool: it was answered right.
    """

    kind: np.ndarray
    asked: np.ndarray
    right: np.ndarray

    def of(self, clips: np.ndarray) -> Marks:
        """Those of some clips, as indices or (N,) bool."""
        return Marks(self.kind[clips], self.asked[clips], self.right[clips])

    def only(self, name: str) -> Marks:
        """Those of a type or a group of types."""
        chosen = [questions.TYPES.index(each) for each in GROUPS.get(name, (name,))]
        return Marks(self.kind, self.asked & np.isin(self.kind, chosen), self.right)

    @property
    def score(self) -> Score:
        return Score(int((self.right & self.asked).sum()), int(self.asked.sum()))

    def spread(self, other: Marks) -> float | None:
        """The standard error, over clips, of this share less another's on the same questions; None for one clip."""
        behind = ((self.right.astype(int) - other.right) * self.asked).sum(1)
        count = self.asked.sum(1)
        if len(count) < 2 or not count.sum():
            return None
        off = behind - behind.sum() / count.sum() * count
        return float((np.square(off).sum() * len(off) / (len(off) - 1)) ** 0.5 / count.sum())


def marks(given: Iterable[Batch], hits: Iterable[torch.Tensor]) -> Marks:
    """Of batches, and for each (B, Q) bool: which of its questions are answered right."""
    pairs = zip(given, hits, strict=True)
    parts = [(questions.TYPE_OF[_array(batch.text)], _array(batch.answer) >= 0, _array(hit)) for batch, hit in pairs]
    return Marks(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _array(values: torch.Tensor) -> np.ndarray:
    return values.cpu().numpy()
