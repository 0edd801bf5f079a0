"""One line that moves on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from shutil import get_terminal_size

EVERY = 5.0  # seconds between lines where stderr is no terminal
REFRESH = 0.1
BAR = 24


class Progress:
    """Follows a video on stderr. A context manager: leaving it ends the line.

    Args:
        total: seconds of video as far as known, or None.
    """

    def __init__(self, total: float | None) -> None:
        self.total = total
        self.live = sys.stderr.isatty()
        self.began = time.monotonic()
        self.shown = -EVERY if self.live else self.began
        self.text = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.live and self.text:
            self._draw()
            print(file=sys.stderr)

    def update(self, seconds: float, frames: int, kept: float) -> None:
        """`seconds` of video and `frames` raw frames are done, of whose tokens the share `kept` is kept."""
        now = time.monotonic()
        rate = frames / max(now - self.began, 1e-9)
        self.text = f"{self._bar(seconds)}{frames} frames, {kept:.0%} of the tokens kept, {rate:.1f} frames/s"
        if now - self.shown >= (REFRESH if self.live else EVERY):
            self.shown = now
            self._draw()

    def _draw(self) -> None:
        if self.live:
            width = get_terminal_size().columns - 1
            print(f"\r\x1b[K{self.text[:width]}", end="", file=sys.stderr, flush=True)
        else:
            print(self.text, file=sys.stderr, flush=True)

    def _bar(self, seconds: float) -> str:
        if not self.total:
            return f"{seconds:.0f} s  "
        done = min(1.0, seconds / self.total)
        full = round(done * BAR)
        bar = f"[{'#' * full}{'.' * (BAR - full)}] " if self.live else ""
        return f"{bar}{seconds:.0f} of {self.total:.0f} s  "
