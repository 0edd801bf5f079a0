"""How often a network is right, for each type of question, on clips that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from streamprune_triton.shapes import questions

from .batch import AREA, Batch, Clips, asked, make
from .network import Network, chosen
from .packing import pack

VALIDATION, TEST, TRAINING = 0, 1_000_000, 1_000_000_000  # first seeds: each split has its own
CLIPS = 16  # at a time


class Score(NamedTuple):
    """Of one type of question."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        return self.right / max(1, self.asked)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share."""
        n, z = max(1, self.asked), 1.96
        middle = (self.share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * (self.share * (1 - self.share) / n + z * z / (4 * n * n)) ** 0.5
        return max(0.0, middle - half), min(1.0, middle + half)


@torch.no_grad()
def batches(
    net: Network, first_seed: int, steps: int, clips: int, count: int, maker: Callable[[int, int, int], Clips] = make
) -> Iterator[Batch]:
    """Batches of new clips, of `make` or another `maker`, with `count` questions each, balanced over all of them."""
    device = net.words.before.device
    made = [maker(first_seed + n, CLIPS, steps) for n in range(-(-clips // CLIPS))]
    weight = questions.balance(np.concatenate([each.known for each in made]))
    rng = np.random.default_rng((first_seed, 2))
    for each in made:
        labels = {name: value.to(device) for name, value in each.labels.items()}
        yield asked(rng, net.features(each.frames.to(device)), labels, each.known, count, weight)


@torch.no_grad()
def correct(net: Network, batch: Batch, keep: torch.Tensor, behind_time: bool = False) -> torch.Tensor:
    """(B, Q) bool: which answers are right when the tokens (B, K) of each clip are kept, see `packing.pack`."""
    packed = pack(batch, net.words, keep, torch.full((batch.size,), behind_time, device=keep.device))
    logits = net.answer(net.read(batch.x, packed)[-1], packed.asks)
    return (logits.argmax(-1) == net.words.answers[batch.answer.clamp(min=0)]) & packed.valid


def least(batch: Batch, share: float) -> torch.Tensor:
    """(B, K) a share of each clip's tokens, those least like the step before."""
    count = batch.x.shape[1] * AREA
    return chosen(batch.x, max(1, round(share * count)))


def scores(net: Network, given: Iterable[Batch], share: float, behind_time: bool = False) -> dict[str, Score]:
    """By type of question, where a share of each clip's tokens is kept."""
    return tally(given, lambda batch: correct(net, batch, least(batch, share), behind_time))


def tally(given: Iterable[Batch], hits: Callable[[Batch], torch.Tensor]) -> dict[str, Score]:
    """By type of question: how many of the batches' questions (B, Q) `hits` says are answered right."""
    right, total = np.zeros(len(questions.TYPES), int), np.zeros(len(questions.TYPES), int)
    for batch in given:
        kind = questions.TYPE_OF[batch.text.cpu().numpy()]
        there = (batch.answer >= 0).cpu().numpy()
        right += np.bincount(kind[hits(batch).cpu().numpy() & there], minlength=len(right))
        total += np.bincount(kind[there], minlength=len(total))
    return {name: Score(int(r), int(n)) for name, r, n in zip(questions.TYPES, right, total, strict=True)}


def mean(of: dict[str, Score]) -> float:
    """The mean share over the types that were asked."""
    return float(np.mean([score.share for score in of.values() if score.asked]))
