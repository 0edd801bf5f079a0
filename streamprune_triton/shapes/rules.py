"""How the answer to each type of question follows from the truth about a clip; `questions` says what they mean.

Every rule takes a `Truth` of B clips of T steps and returns (B, T, ...) indices into ANSWERS, the last axes being the
question's arguments in the order of `questions.TEXTS`; NONE where it is not asked.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .truth import CLEAR, OUT, VAGUE, Truth
from .world import COLOURS, KINDS, SIDE

SIDES = ("left", "right", "top", "bottom")
RELATIONS = ("left", "right", "above", "below")
WAYS = ("nowhere", "left", "right", "up", "down")  # as VELOCITIES
COUNTS = ("zero", "one", "two", "three", "four")
STATES = ("stands", "moves", "gone", "unseen")
NOTHING = "nothing"
ANSWERS = tuple(dict.fromkeys((*COLOURS, NOTHING, *KINDS, *SIDES, *RELATIONS, *WAYS, *COUNTS, *STATES)))
_NEAR, _MARGIN = 14, 12  # half pixels: a side must be this far, and this much farther than the other axis
NONE = -1


def _word(names: tuple[str, ...]) -> np.ndarray:
    return np.array([ANSWERS.index(name) for name in names])


def _side(offset: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Which of (left, right, up, down) offsets (..., 2) in half pixels point to, NONE where that is not plain."""
    x, y = offset[..., 0], offset[..., 1]
    across = abs(x) > abs(y)
    plain = (abs(abs(x) - abs(y)) >= _MARGIN) & (np.maximum(abs(x), abs(y)) >= _NEAR)
    way = np.where(across, x > 0, 2 + (y > 0))
    return np.where(plain, _word(names)[way], NONE)


def _shape(about: Truth) -> np.ndarray:
    return np.where(about.status == CLEAR, _word(KINDS)[about.kind][:, None], NONE)


def _place(about: Truth) -> np.ndarray:
    return np.where(about.status == CLEAR, _side(about.at * 2 - (SIDE - 1), SIDES), NONE)


def _was(about: Truth) -> np.ndarray:
    return np.where(about.gone, _side(about.at * 2 - (SIDE - 1), SIDES), NONE)


def _between(about: Truth) -> np.ndarray:
    """(B, T, C, C): where the first colour is from the second."""
    at = about.at.astype(np.int64)
    return _side(2 * (at[:, :, :, None] - at[:, :, None, :]), RELATIONS)


def _relation(about: Truth) -> np.ndarray:
    clear = about.status == CLEAR
    return np.where(clear[:, :, :, None] & clear[:, :, None, :], _between(about), NONE)


def _beside(about: Truth) -> np.ndarray:
    """(B, T, 4, C): all other shapes are in plain directions from this one, and at most one in that asked for."""
    clear, others = about.status == CLEAR, ~np.eye(len(COLOURS), dtype=bool)
    pair = clear[:, :, :, None] & clear[:, :, None, :] & others
    between = _between(about)
    plain = (~pair | (between != NONE)).all(2) & pair.any(2) & ~(about.status == VAGUE).any(2, keepdims=True)
    there = pair[:, :, None] & (between[:, :, None] == _word(RELATIONS)[:, None, None])  # (B, T, 4, C, C)
    count, colour = there.sum(3), _word(tuple(COLOURS))[there.argmax(3)]
    answer = np.where(count == 1, colour, np.where(count == 0, ANSWERS.index(NOTHING), NONE))
    return np.where(plain[:, :, None], answer, NONE)


def _count(about: Truth) -> np.ndarray:
    number = (about.status == CLEAR).sum(2)
    return np.where((about.status == VAGUE).any(2), NONE, _word(COUNTS)[number])


def _steady(about: Truth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(B, T, C) each: clear in this step and the one before, its way in both."""
    before = np.roll(about.status, 1, 1) == CLEAR
    before[:, 0] = False
    return (about.status == CLEAR) & before, about.way, np.roll(about.way, 1, 1)


def _motion(about: Truth) -> np.ndarray:
    clear, now, before = _steady(about)
    return np.where(clear & (now == before), _word(WAYS)[now], NONE)


def _state(about: Truth) -> np.ndarray:
    clear, now, before = _steady(about)
    stands, moves, gone, unseen = _word(STATES)
    present = np.where(clear & (now == before), np.where(now > 0, moves, stands), NONE)
    absent = np.where(about.unseen, unseen, NONE)
    return np.where(about.gone & (about.status == OUT), gone, np.where(about.status == OUT, absent, present))


def _extreme(about: Truth, sign: int) -> np.ndarray:
    """The colour whose onset is the only smallest (sign 1) or largest (-1) of at least two; all were clear by now."""
    shown = ~about.unseen
    onset = np.where(shown, sign * about.onset, 1 << 20)
    best = onset.min(2, keepdims=True)
    plain = ((onset == best).sum(2) == 1) & (shown.sum(2) >= 2) & (~shown | about.seen).all(2)
    return np.where(plain, _word(tuple(COLOURS))[onset.argmin(2)], NONE)


def _first(about: Truth) -> np.ndarray:
    return _extreme(about, 1)


def _latest(about: Truth) -> np.ndarray:
    return _extreme(about, -1)


def _order(about: Truth) -> np.ndarray:
    a, b = about.onset[:, :, :, None], about.onset[:, :, None, :]
    both = about.seen[:, :, :, None] & about.seen[:, :, None, :]
    names = _word(tuple(COLOURS))
    return np.where(both & (a != b), np.where(a < b, names[:, None], names[None, :]), NONE)


def _left(about: Truth) -> np.ndarray:
    count, colour = about.gone.sum(2), _word(tuple(COLOURS))[about.gone.argmax(2)]
    none = np.where((count == 0) & (about.seen.sum(2) >= 2), ANSWERS.index(NOTHING), NONE)
    return np.where((about.status == VAGUE).any(2), NONE, np.where(count == 1, colour, none))


RULES: dict[str, Callable[[Truth], np.ndarray]] = {
    "shape": _shape,
    "place": _place,
    "relation": _relation,
    "beside": _beside,
    "count": _count,
    "motion": _motion,
    "state": _state,
    "first": _first,
    "last": _latest,
    "order": _order,
    "left": _left,
    "was": _was,
}
