"""What a streaming session remembers of the frames it has seen."""

from __future__ import annotations

from dataclasses import dataclass

from ..validate import count

MODES = ("tokens", "carriers", "hybrid")
POSITIONS = ("absolute", "compact")
LEAST = {"max_carriers": 1, "recent_frames": 0, "max_dialogue": 0, "max_tokens": 1}


@dataclass(frozen=True)
class Memory:
    """What stays in the KV cache.

    Args:
        mode: "tokens" (StreamingAssistant, arXiv 2512.12560): the kept visual tokens stay, no carrier enters the
            sequence. "carriers" (VideoScan, arXiv 2503.09387): a frame is read as its kept tokens and its carrier,
            and then only the carrier stays. "hybrid": the newest `recent_frames` frames keep their tokens and their
            carriers, older frames their carriers alone.
        max_carriers: at most so many carriers stay: the older of the two neighbours in time whose embeddings are most
            alike goes, of several such pairs the oldest; in "hybrid" mode none of the recent frames' as long as there
            are older ones.
        recent_frames: of "hybrid".
        max_tokens: at most so many visual tokens stay; the oldest frame goes first, whole, before the frame that
            would not fit is read ("carriers" holds none). A frame's own text, such as its time, counts with it in
            "tokens" mode. None: no bound.
        max_dialogue: at most so many tokens of remembered questions and answers stay; the oldest turn goes first.
        positions: "absolute" leaves every key where it was read. "compact" closes the gaps that eviction leaves
            whenever positions come near the model's limit, by rotating the cached keys: a stream may go on for ever.

    Raises:
        ValueError, TypeError: naming the argument.
    """

    mode: str = "tokens"
    max_carriers: int = 128
    recent_frames: int = 8
    max_tokens: int | None = None
    max_dialogue: int = 4096
    positions: str = "absolute"

    def __post_init__(self) -> None:
        for name, value, allowed in (("mode", self.mode, MODES), ("positions", self.positions, POSITIONS)):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        for name, least in LEAST.items():
            if name != "max_tokens" or self.max_tokens is not None:
                object.__setattr__(self, name, count(name, getattr(self, name), least))

    @property
    def carriers(self) -> bool:
        """Whether carriers are part of the sequence."""
        return self.mode != "tokens"
