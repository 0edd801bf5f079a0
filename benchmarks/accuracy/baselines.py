"""What can be had without a model, or without the clip's past."""

from __future__ import annotations

import numpy as np
import torch

from streamprune_triton.shapes import questions, render, truth, world

from .batch import AREA, Batch
from .measure import correct, least
from .network import Network

Guess = np.ndarray  # (len(TEXTS),): the answer to each question


def guesses(seed: int, steps: int, clips: int, count: int = 12) -> tuple[Guess, Guess]:
    """The most frequent answer to each question's type, and to its very words, in questions as they are drawn.

    No model that does not see the clip can do better than the second, but for what it does not know of frequencies.
    """
    happens = world.simulate(seed, clips, steps)
    known = questions.answers(truth.truth(happens, render.owners(happens)))
    drawn = questions.draw(np.random.default_rng((seed, 3)), known, count)
    text, answer = (each[drawn.answer >= 0] for each in (drawn.text, drawn.answer))
    size = len(questions.ANSWERS)
    by_text = np.bincount(text * size + answer, minlength=len(questions.TEXTS) * size).reshape(-1, size)
    kind = questions.TYPE_OF
    by_type = np.stack([by_text[kind == n].sum(0) for n in range(len(questions.TYPES))])
    return by_type.argmax(1)[kind], by_text.argmax(1)


def guessed_right(batch: Batch, guess: Guess) -> torch.Tensor:
    """(B, Q) bool: which questions a guess answers right."""
    return torch.from_numpy(guess)[batch.text] == batch.answer


def last_step(batch: Batch) -> Batch:
    """The same questions, one a clip, about a video of the step alone after which they are asked."""
    clip = torch.arange(batch.size)[:, None].expand_as(batch.step)
    x = batch.x[clip, batch.step].flatten(0, 1)[:, None]
    place = (batch.step[..., None] * AREA + torch.arange(AREA)).flatten(0, 1)
    labels = {name: value[clip.reshape(-1, 1), place] for name, value in batch.labels.items()}
    text, answer = batch.text.reshape(-1, 1), batch.answer.reshape(-1, 1)
    return Batch(x, labels, text, torch.zeros_like(text), answer)


def last_step_right(net: Network, batch: Batch) -> torch.Tensor:
    """(B, Q) bool: which questions are answered right from that step alone."""
    one = last_step(batch)
    return correct(net, one, least(one, 1.0)).view(batch.text.shape)
