"""Sessions seen from outside and inside, for the tests of this folder."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import unmodified

from streamprune_triton import Memory, PruneConfig, StreamingSession
from streamprune_triton.models import tiny
from streamprune_triton.models.base import Adapter
from streamprune_triton.models.towers import precomputed

STREAMED = tuple(name for name in tiny.NAMES if name not in unmodified.UNSTREAMED)  # families that sessions run on
KINDS = ("qwen2_5_vl", "qwen3_vl", "llava_onevision")  # one of each layout: time in positions, in text, 1-D positions
NOTHING = PruneConfig(temporal_threshold=None, spatial_threshold=None)
NEVER = PruneConfig(temporal_threshold=1.0, spatial_threshold=1.0)
SOME = PruneConfig(temporal_threshold=0.9, spatial_threshold=0.6)
WHAT = "What moves?"
GREEDY: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}
ATOL = 1e-4  # of logits, in float32


class Heard:
    """What sessions chose their tokens from, and what they put into the language model, in order."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.logits: list[torch.Tensor] = []
        self.embeds: list[torch.Tensor] = []
        self.positions: list[torch.Tensor] = []
        self.deepstack: list[Any] = []

    def clear(self) -> None:
        for each in vars(self).values():
            each.clear()


def fed(
    model: tuple[Any, Any],
    frames: np.ndarray,
    chunk: int,
    config: PruneConfig = NOTHING,
    memory: Memory | None = None,
    **options: Any,
) -> StreamingSession:
    """A session after the frames in chunks."""
    session = StreamingSession(*model, config, memory, **options)
    for n in range(0, len(frames), chunk):
        session.append(frames[n : n + chunk])
    return session


def answer(session: StreamingSession, heard: Heard, question: str = WHAT, **options: Any) -> torch.Tensor:
    """(n, V) the logits of an answer."""
    heard.clear()
    session.ask(question, **(GREEDY | options))
    return torch.stack(heard.logits)


def order(session: StreamingSession) -> np.ndarray:
    """Numbers of the cache's rows in the order of reading."""
    rows = session._past.rows
    return np.lexsort((rows.slot, rows.block))


def counts_of(session: StreamingSession) -> dict[str, Any]:
    return {name: value for name, value in vars(session.stats).items() if name != "seconds"}


def told(adapter: Adapter) -> bool:
    """Whether the tower need not ask the device what it derives from a clip's grid: it has none, or is told."""
    pixels = adapter.pixels(unmodified.film(adapter.frames_per_step))
    return not isinstance(pixels, tuple) or bool(precomputed(adapter.model, pixels[1], adapter._merge))


def same_past(a: StreamingSession, b: StreamingSession, atol: float = ATOL) -> bool:
    """Whether two sessions would go on alike: keys and values within float error, everything else equal."""
    return same_records(a, b) and same_state(a, b, atol) and same_rows(a, b, atol)


def same_records(a: StreamingSession, b: StreamingSession) -> bool:
    ours, theirs = a._past, b._past
    names = ("blocks", "cursor", "position", "top", "number", "steps", "turns", "said", "grid")
    mine, other = ours.keeping, theirs.keeping
    return (
        all(getattr(ours, name) == getattr(theirs, name) for name in names)
        and (mine.visual, mine.dialogue) == (other.visual, other.dialogue)
        and [n for n, _ in mine.carriers] == [n for n, _ in other.carriers]
        and (ours.waiting is None) == (theirs.waiting is None)
        and np.array_equal(ours.waiting, theirs.waiting)
    )


def same_state(a: StreamingSession, b: StreamingSession, atol: float) -> bool:
    mine, other = a._past.pruner.state_dict(), b._past.pruner.state_dict()
    return mine.keys() == other.keys() and all(
        torch.allclose(mine[name].cpu().float(), other[name].cpu().float(), atol=atol, equal_nan=True) for name in mine
    )


def same_rows(a: StreamingSession, b: StreamingSession, atol: float) -> bool:
    ours, theirs, one, two = a._past, b._past, order(a), order(b)
    for name in ("block", "slot", "kind", "dies", "position"):
        if not np.array_equal(getattr(ours.rows, name)[..., one], getattr(theirs.rows, name)[..., two]):
            return False
    return all(
        torch.allclose(x.cpu()[:, :, one], y.cpu()[:, :, two], atol=atol)
        for first, second in zip(ours.cache.layers, theirs.cache.layers, strict=True)
        for x, y in ((first.keys, second.keys), (first.values, second.values))
    )
