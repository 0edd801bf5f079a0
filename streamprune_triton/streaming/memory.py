"""What a streaming session remembers of the frames it has seen."""

from __future__ import annotations

from dataclasses import dataclass

MODES = ("tokens",)


@dataclass(frozen=True)
class Memory:
    """What stays in the KV cache.

    Args:
        mode: "tokens" (StreamingAssistant, arXiv 2512.12560): the kept visual tokens stay.
        max_tokens: at most so many visual tokens stay; the oldest frame goes first, whole, before the frame that
            would not fit is read. None: no bound.

    Raises:
        ValueError, TypeError: for another mode, or a bound below 1.
    """

    mode: str = "tokens"
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if self.max_tokens is None:
            return
        if isinstance(self.max_tokens, bool) or not isinstance(self.max_tokens, int):
            raise TypeError(f"max_tokens must be an integer or None, got {type(self.max_tokens).__name__}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1 or None, got {self.max_tokens}")
