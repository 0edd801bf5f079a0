"""Clips as features, kept for some time: the frozen tower sees each once, the language model several times."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from streamprune_triton.shapes import questions

from .batch import Batch, Clips, asked, make

Tower = Callable[[torch.Tensor], torch.Tensor]
_CHUNK, _FIRST = 16, 4  # clips made at a time, chunks made before the first batch


class Pool:
    """Clips of one length. New ones come, and the oldest go, as batches are drawn.

    Args:
        tower: frames (B, 2T, SIDE, SIDE, 3) to features (B, T, AREA, D).
        steps: T of each clip.
        size: clips held at most.
        seed: of the first clips' worlds; what follows counts on from it.
        reuse: batches in which a clip is, on average.
    """

    def __init__(self, tower: Tower, steps: int, size: int, seed: int, reuse: int = 4) -> None:
        self._tower, self._steps, self._seed, self._reuse = tower, steps, seed, reuse
        self._chunks: deque[tuple[torch.Tensor, Clips]] = deque(maxlen=max(_FIRST, size // _CHUNK))
        self._seeds: deque[int] = deque(maxlen=self._chunks.maxlen)  # of the chunks
        self._due = 0
        for _ in range(_FIRST):
            self._more()

    def draw(self, rng: np.random.Generator, clips: int, count: int) -> Batch:
        """A batch of at most `clips` clips with new questions, `count` each."""
        self._due += clips
        while self._due >= _CHUNK * self._reuse:
            self._due -= _CHUNK * self._reuse
            self._more()
        held = len(self._chunks) * _CHUNK
        of = [divmod(int(n), _CHUNK) for n in rng.choice(held, size=min(clips, held), replace=False)]
        x = torch.stack([self._chunks[chunk][0][row] for chunk, row in of]).float()
        made = [(self._chunks[chunk][1], row) for chunk, row in of]
        labels = {name: torch.stack([clip.labels[name][row] for clip, row in made]) for name in made[0][0].labels}
        known = np.stack([clip.known[row] for clip, row in made])
        return asked(rng, x, {name: value.to(x.device) for name, value in labels.items()}, known, count, self._weight)

    def state_dict(self) -> dict[str, Any]:
        return {"seeds": list(self._seeds), "next": self._seed, "due": self._due}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the clips again."""
        self._chunks.clear()
        for self._seed in state["seeds"]:
            self._more()
        self._seed, self._due = state["next"], state["due"]

    @torch.no_grad()
    def _more(self) -> None:
        clips = make(self._seed, _CHUNK, self._steps)
        self._seed += 1
        x = self._tower(clips.frames.to(torch.get_default_device())).to(torch.bfloat16)
        self._chunks.append((x, Clips(clips.frames[:0], clips.labels, clips.known)))
        self._seeds.append(self._seed - 1)
        self._weight = questions.balance(np.concatenate([each.known for _, each in self._chunks]))
