"""One network's test: clips with questions, and what it answers when some of their tokens are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from .batch import AREA, Batch, Clips, make
from .marks import Marks, marks
from .measure import TEST, batches, correct
from .network import Network
from .packing import PADDING

COUNT = 12  # questions a clip
Choice = Callable[[Batch], torch.Tensor]  # (B, K) the tokens that stay, ascending, PADDING behind the last


@dataclass(frozen=True)
class Exam:
    """What every table asks: the same clips and questions, whatever is dropped.

    Attributes:
        net: the network, in evaluation mode.
        given: its batches of clips, features and questions.
        first_seed: of the clips: batch n is made of `world.simulate(first_seed + n, ...)`.
        quick: a table may leave out what takes long.
    """

    net: Network
    given: Sequence[Batch]
    first_seed: int = TEST
    quick: bool = False
    _known: dict[bytes, torch.Tensor] = field(default_factory=dict)

    @property
    def clips(self) -> int:
        return sum(batch.size for batch in self.given)

    @property
    def steps(self) -> int:
        return self.given[0].x.shape[1]

    def marks(self, choice: Choice) -> Marks:
        """What is answered right when `choice` says which tokens stay; the same tokens are not asked about twice."""
        return marks(self.given, (self._hits(n, batch, choice(batch)) for n, batch in enumerate(self.given)))

    def dropped(self, choice: Choice) -> float:
        """The share of all tokens that `choice` drops."""
        kept = sum(int((choice(batch) != PADDING).sum()) for batch in self.given)
        return 1 - kept / (self.clips * self.steps * AREA)

    def with_clips(self, clips: int, maker: Callable[[int, int, int], Clips] = make) -> Exam:
        """An exam of the same network over other clips, of `batch.make` or another maker."""
        return exam(self.net, clips, self.steps, self.quick, maker)

    def _hits(self, number: int, batch: Batch, keep: torch.Tensor) -> torch.Tensor:
        key = hashlib.sha256(keep.numpy().tobytes() + bytes(f"{number} {keep.shape}", "ascii")).digest()
        if key not in self._known:
            self._known[key] = correct(self.net, batch, keep)
        return self._known[key]


def exam(
    net: Network, clips: int, steps: int = 16, quick: bool = False, maker: Callable[[int, int, int], Clips] = make
) -> Exam:
    """An exam over test clips, their number rounded up to a multiple of `measure.CLIPS`."""
    return Exam(net, list(batches(net, TEST, steps, clips, COUNT, maker)), TEST, quick)
