"""Questions with one-word answers about any moment of a clip, and their answers.

A question is asked after step n and about what was seen up to then. One whose answer could be argued about (a shape
half hidden, two directions nearly equal, two that came in the same step) is not asked.

| type | question | answer |
|---|---|---|
| shape | what shape is red ? | square, circle, triangle, cross; red is in clear view |
| place | where is red ? | left, right, top, bottom: the side of the centre it is on |
| relation | where is red from blue ? | left, right, above, below |
| beside | what is left of blue ? | the only colour that stands so to blue, or nothing |
| count | how many shapes ? | zero to four, in view now |
| motion | where does red go ? | left, right, up, down, nowhere: in this step and the one before |
| state | what does red do ? | stands, moves, gone (was seen and is no more), unseen |
| first | what came first ? | the colour that was seen before all others |
| last | what came last ? | the colour that was seen after all others had been |
| order | what came first red or blue ? | the one that was seen earlier |
| left | what has left ? | the only colour that is gone, or nothing |
| was | where was red ? | the side on which it was last in clear view; red is gone |
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .rules import ANSWERS, NONE, RULES
from .truth import Truth
from .world import COLOURS

_C = tuple(COLOURS)
_PAIRS = [(a, b) for a in _C for b in _C]
_ARGUMENTS: dict[str, list[str]] = {
    "shape": [f"what shape is {a} ?" for a in _C],
    "place": [f"where is {a} ?" for a in _C],
    "relation": [f"where is {a} from {b} ?" for a, b in _PAIRS],
    "beside": [f"what is {w} {b} ?" for w in ("left of", "right of", "above", "below") for b in _C],
    "count": ["how many shapes ?"],
    "motion": [f"where does {a} go ?" for a in _C],
    "state": [f"what does {a} do ?" for a in _C],
    "first": ["what came first ?"],
    "last": ["what came last ?"],
    "order": [f"what came first {a} or {b} ?" for a, b in _PAIRS],
    "left": ["what has left ?"],
    "was": [f"where was {a} ?" for a in _C],
}
TYPES = tuple(_ARGUMENTS)
TEXTS = tuple(text for texts in _ARGUMENTS.values() for text in texts)
TYPE_OF = np.repeat(np.arange(len(TYPES)), [len(texts) for texts in _ARGUMENTS.values()])


class Questions(NamedTuple):
    """Q questions about each of B clips, in order of time."""

    text: np.ndarray  # (B, Q) index into TEXTS
    step: np.ndarray  # (B, Q): asked after this step
    answer: np.ndarray  # (B, Q) index into ANSWERS, -1 where a clip has fewer than Q questions


def answers(about: Truth) -> np.ndarray:
    """(B, T, len(TEXTS)) int16: the answer to every question after every step, as index into ANSWERS, -1 for none."""
    found = [RULES[name](about) for name in TYPES]
    clips, steps = about.status.shape[:2]
    return np.concatenate([each.reshape(clips, steps, -1) for each in found], -1).astype(np.int16)


def balance(known: np.ndarray) -> np.ndarray:
    """(len(TYPES), len(ANSWERS)): weights that make types, and within a type its answers, about equally frequent.

    Args:
        known: of `answers`, for many clips. What is very rare in them is not made up for wholly.
    """
    valid = known != NONE
    group = (TYPE_OF * len(ANSWERS) + known)[valid]
    counts = np.bincount(group, minlength=len(TYPES) * len(ANSWERS)).reshape(len(TYPES), -1).astype(float)
    kinds = (counts > 0).sum(1, keepdims=True).clip(1)
    return 1 / (counts + 0.002 * counts.sum() + 1) / kinds


def draw(rng: np.random.Generator, known: np.ndarray, count: int, weight: np.ndarray | None = None) -> Questions:
    """Questions about each clip, without repetition.

    Args:
        rng: NumPy's.
        known: of `answers`, for B clips.
        count: questions a clip.
        weight: of `balance`, or (len(TYPES), len(ANSWERS)) of one's own; 0 is never asked. None: balance over `known`.
    """
    weight = balance(known) if weight is None else weight
    with np.errstate(divide="ignore"):
        log = np.log(np.append(weight.ravel(), 0.0))
    group = np.where(known != NONE, TYPE_OF * len(ANSWERS) + known, -1)
    score = (log[group] + rng.gumbel(size=known.shape)).reshape(len(known), -1)
    best = np.sort(np.argpartition(-score, count - 1, axis=1)[:, :count], 1)
    answer = np.take_along_axis(known.reshape(score.shape), best, 1)
    answer = np.where(np.isinf(np.take_along_axis(score, best, 1)), NONE, answer)
    return Questions(best % len(TEXTS), best // len(TEXTS), answer)
