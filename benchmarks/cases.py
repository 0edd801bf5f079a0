"""What is timed: shapes, dtypes, drop ratios."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import cycle, islice

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
RAGGED = ((0, 0), (-2, -2), (-6, 6), (8, 4))  # rows and columns that ragged streams in turn have more
GRIDS = {(14, 14): "14x14", (16, 16): "448x448", (26, 26): "728x728", (39, 69): "1080p", (77, 137): "4K"}


@dataclass(frozen=True)
class Case:
    """Features (T, H, W, D) of one stream, or of `streams` in one call, each with the frame before in its state.

    Attributes:
        drop: share of a frame's tokens that equal those of the frame before.
        state: whether a frame was seen before; a clip without one keeps its first frame.
        ragged: whether the streams' grids differ (RAGGED).
    """

    t: int
    h: int
    w: int
    d: int = 3584
    dtype: str = "bf16"
    drop: float = 0.92
    state: bool = True
    streams: int = 1
    ragged: bool = False

    @property
    def name(self) -> str:
        batch = f"{self.streams}{' ragged' * self.ragged} of " if self.streams > 1 else ""
        return f"{batch}{self.t}x{self.h}x{self.w}x{self.d}"

    @property
    def grids(self) -> list[tuple[int, int]]:
        """(H, W) of each stream."""
        more = RAGGED if self.ragged else RAGGED[:1]
        return [(self.h + rows, self.w + columns) for rows, columns in islice(cycle(more), self.streams)]

    @property
    def frame(self) -> int:
        """Tokens of a frame of each stream, together."""
        return sum(h * w for h, w in self.grids)

    @property
    def tokens(self) -> int:
        return self.t * self.frame

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize

    @property
    def model_bytes(self) -> int:
        """Bytes that no implementation can avoid: features and reference frame read once, kept tokens and the next
        reference frame written once."""
        kept = round((1 - self.drop) * self.tokens)
        return (self.tokens + self.frame * self.state + kept + self.frame) * self.d * self.itemsize


def gpu_cases() -> list[Case]:
    """Every shape in bf16, then other widths, dtypes, ratios and the batch."""
    shapes = [Case(t, h, w) for h, w in GRIDS for t in (1, 16, 64) if t * h * w <= 16 * 39 * 69 or t == 1]
    small = [replace(c, d=896) for c in shapes if (c.h, c.w) in ((16, 16), (39, 69))]
    dtypes = [Case(t, 16, 16, dtype=name) for name in ("fp16", "fp32") for t in (1, 16)]
    ratios = [Case(t, 16, 16, drop=drop) for drop in (0.0, 0.5) for t in (1, 64)]
    return [*shapes, *small, *dtypes, *ratios, Case(1, 16, 16, streams=64, ragged=True)]


def cpu_cases() -> list[Case]:
    """What a laptop times in some minutes: the cases of the table's first part, then resolutions and ratios."""
    large = Case(4, 39, 69, d=896, dtype="fp32")
    return [
        Case(1, 16, 16, dtype="fp32"),
        Case(16, 14, 14, dtype="fp32"),
        Case(16, 14, 14, dtype="bf16"),
        large,
        Case(1, 16, 16, d=896, dtype="fp32", streams=8),
        *(replace(large, h=h, w=w) for h, w in ((14, 14), (16, 16), (26, 26))),
        *(Case(4, 14, 14, d=896, dtype="fp32", drop=drop) for drop in (0.0, 0.5)),
    ]


def dry_cases() -> list[Case]:
    """So small that every path runs in seconds, also in Triton's interpreter."""
    return [Case(2, 4, 4, d=32, dtype="fp32"), Case(1, 3, 4, d=32, dtype="fp32", streams=2, ragged=True)]
