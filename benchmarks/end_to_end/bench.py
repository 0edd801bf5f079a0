"""What all scenarios share: the model, its frames, how long, and rows of what was measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

import streamprune_triton as sp
from streamprune_triton import models as families

from ..timing import Times
from . import models
from .rows import Row, machine

FPS = 1.0  # of the raw frames
SHARE = 0.08  # of a step's tokens that stays
QUESTION = "What is moving, and where does it go?"
Values = dict[str, tuple[str, list[float]]]  # by quantity: unit, and one value a run


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        side: of a square frame in pixels.
        film: different frames that take turns.
        carriers: at most held.
        streams: in a batch.
        steps: timed ones of a stream.
        marks: raw frames of the long stream at which it is looked at; at FPS, 120 are two minutes, 7,200 two hours.
        call: raw frames of one call there.
        clip: raw frames of the clip.
        answer: tokens of an answer.
        runs: of a question, and of the clip.
    """

    side: int
    film: int
    carriers: int
    streams: int
    steps: int
    marks: tuple[int, ...]
    call: int
    clip: int
    answer: int
    runs: int


GPU = Sizes(448, 64, 128, 16, 60, (120, 500, 7200, 10_000), 16, 64, 32, 3)
CPU = Sizes(224, 64, 128, 16, 60, (120, 500, 7200), 16, 64, 32, 5)
DRY = Sizes(84, 24, 12, 3, 10, (8, 32, 48), 4, 24, 4, 2)


@dataclass(frozen=True)
class Bench:
    """One model, and how much is measured on it.

    Attributes:
        name: of the model, for the rows.
        until: of time.monotonic(), when to stop.
        say: where to say what happens.
    """

    model: Any
    processor: Any
    name: str
    sizes: Sizes
    until: float
    say: Callable[[str], None]

    @classmethod
    def on(cls, device: torch.device, sizes: Sizes, until: float, say: Callable[[str], None]) -> Bench:
        """The architecture of 7B in bfloat16 on a GPU, else the tiny model in float32."""
        size, dtype = ("7b", torch.bfloat16) if device.type == "cuda" else ("tiny", torch.float32)
        say(f"{models.SIZES[size]} on {device} ...")
        return cls(*models.build(size, device, dtype), models.SIZES[size], sizes, until, say)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @cached_property
    def adapter(self) -> Any:
        return families.adapter(self.model)(self.model, self.processor)

    @cached_property
    def film(self) -> np.ndarray:
        return models.film(self.sizes.film, self.sizes.side)

    @property
    def tokens(self) -> int:
        """Visual tokens of a step."""
        vision = self.model.config.vision_config
        return (self.sizes.side // vision.patch_size // vision.spatial_merge_size) ** 2

    @property
    def kept(self) -> int:
        """How many of them stay."""
        return max(1, round(SHARE * self.tokens))

    @property
    def config(self) -> sp.PruneConfig:
        return sp.PruneConfig(keep_tokens=self.kept)

    def memory(self, mode: str) -> sp.Memory:
        """Of the mode; of "tokens" as many frames' as of "carriers" carriers."""
        held = self.sizes.carriers
        return sp.Memory(mode, max_carriers=held, max_tokens=held * self.kept if mode == "tokens" else None)

    def session(
        self, memory: sp.Memory, config: sp.PruneConfig | None = None, graphs: bool = False
    ) -> sp.StreamingSession:
        """With the budget, where no config says otherwise."""
        config = config or self.config
        return sp.StreamingSession(self.model, self.processor, config, memory, fps=FPS, cuda_graphs=graphs)

    def frames(self, first: int, count: int) -> np.ndarray:
        """(count, side, side, 3): raw frames of a stream from number `first` on."""
        return self.film[np.arange(first, first + count) % len(self.film)]

    def spent(self) -> bool:
        return time.monotonic() > self.until

    def rows(self, scenario: str, provider: str, frames: int, error: float, values: Values) -> Iterator[Row]:
        """One for each quantity."""
        side, dtype = self.sizes.side, str(self.model.dtype).removeprefix("torch.")
        for quantity, (unit, measured) in values.items():
            times = Times.of(measured)
            self.say(f"{scenario:12} {provider:15} {quantity:20} {frames:6} frames {times.p50:10.4g} {unit}")
            yield Row(
                scenario, provider, quantity, unit, times.p20, times.p50, times.p80, times.runs, self.name, dtype,
                f"{side}x{side}", self.tokens, self.kept, frames, error, **machine(self.device),
            )  # fmt: skip


def chosen(device: torch.device, dry: bool) -> Sizes:
    if dry:
        return DRY
    return GPU if device.type == "cuda" else CPU


@contextmanager
def heard(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collects the (V,) logits that tokens are chosen from: those of the last column of each call of the head."""
    logits: list[torch.Tensor] = []

    def hook(module: Any, args: Any, output: torch.Tensor) -> None:
        logits.append(output.reshape(-1, output.shape[-1])[-1].float())

    handle = model.get_output_embeddings().register_forward_hook(hook)
    try:
        yield logits
    finally:
        handle.remove()
