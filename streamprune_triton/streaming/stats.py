"""What a session counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

STAGES = ("preprocess", "vision", "prune", "prefill", "answer")


@dataclass
class Stats:
    """Counts since a session began, and what its KV cache holds now.

    Attributes:
        frames_in: raw frames taken, also one that waits for the rest of its step, or that a gap has left without it.
        steps: temporal steps of the model's grid.
        tokens_in, tokens_kept: visual tokens before and after pruning.
        dropped_temporal, dropped_spatial: dropped ones by stage; where both would drop, the temporal one counts, and
            what a budget drops goes to the larger similarity.
        nonfinite: dropped for a NaN or Inf.
        frames_skipped: raw frames that never came, see `StreamingSession.skip`.
        frames_dropped, frames_coalesced: those of them that came and that a `feed.FrameQueue` gave up.
        carriers: frames that are held as a carrier.
        kv_tokens: rows held, those of the text before the video included.
        kv_bytes: their keys and values in all layers.
        seconds: wall time by stage. A GPU is not waited for: its work counts in the stage that next needs a result.
    """

    frames_in: int = 0
    steps: int = 0
    tokens_in: int = 0
    tokens_kept: int = 0
    dropped_temporal: int = 0
    dropped_spatial: int = 0
    nonfinite: int = 0
    frames_skipped: int = 0
    frames_dropped: int = 0
    frames_coalesced: int = 0
    carriers: int = 0
    kv_tokens: int = 0
    kv_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Adds the time spent inside to seconds[stage]."""
    start = perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + perf_counter() - start
