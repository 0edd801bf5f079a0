"""Frames with the fate of their tokens painted on. Needs Pillow."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..attribution import BY_SPACE, BY_TIME, KEPT, NOT_FINITE
from .collect import Sample

# Okabe and Ito's colours, told apart by colour-blind readers too, and apart in brightness.
COLORS = {KEPT: (0, 158, 115), BY_TIME: (0, 84, 147), BY_SPACE: (230, 159, 0), NOT_FINITE: (204, 121, 167)}
NAMES = {
    KEPT: "kept (clear)",
    BY_TIME: "dropped by time",
    BY_SPACE: "dropped by space",
    NOT_FINITE: "dropped, not finite",
}
TINT = {BY_TIME: 0.55, BY_SPACE: 0.6, NOT_FINITE: 0.8}  # share of the colour over a dropped token
WIDTH = 480  # pixels of one frame in the sheet
MARGIN = 14
CAPTION = 26
INK, PAPER = (32, 36, 42), (255, 255, 255)


def cells(size: tuple[int, int], grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The token row of every pixel row and the token column of every pixel column: the grid spans the whole frame."""
    (height, width), (h, w) = size, grid
    return np.arange(height) * h // height, np.arange(width) * w // width


def tinted(image: np.ndarray, fate: np.ndarray) -> np.ndarray:
    """`image` (height, width, 3) uint8 with dropped tokens dimmed in their stage's colour and kept ones as they are.

    `fate` is (H, W); a thin light line runs between kept and dropped tokens.
    """
    rows, columns = cells(image.shape[:2], fate.shape)
    pixels = fate[rows][:, columns]
    out = image.astype(np.float32)
    gray = out.mean(-1, keepdims=True)
    for code, share in TINT.items():
        at = pixels == code
        dim = 0.35 * out[at] + 0.35 * gray[at]
        out[at] = (1 - share) * dim + share * np.array(COLORS[code], np.float32)
    kept = pixels == KEPT
    edge = np.zeros_like(kept)
    edge[1:] |= kept[1:] & ~kept[:-1]
    edge[:-1] |= kept[:-1] & ~kept[1:]
    edge[:, 1:] |= kept[:, 1:] & ~kept[:, :-1]
    edge[:, :-1] |= kept[:, :-1] & ~kept[:, 1:]
    out[edge] = 0.35 * out[edge] + 0.65 * 255
    return out.clip(0, 255).astype(np.uint8)


def scaled(image: np.ndarray, width: int = WIDTH) -> np.ndarray:
    """`image` at `width` pixels, in proportion."""
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def sheet(samples: list[Sample]) -> Image.Image:
    """All samples tinted, side by side with their times, under a legend."""
    pictures = [tinted(scaled(each.image), each.fate) for each in samples]
    columns = max(1, min(4 if len(samples) > 4 else 2, len(samples)))
    rows = -(-len(samples) // columns)
    height = max((each.shape[0] for each in pictures), default=0)
    across, down = WIDTH + MARGIN, height + CAPTION + MARGIN
    page = Image.new("RGB", (max(MARGIN + columns * across, 560), 2 * MARGIN + CAPTION + rows * down), PAPER)
    draw = ImageDraw.Draw(page)
    shown = {code for each in samples for code in np.unique(each.fate)} | {KEPT, BY_TIME, BY_SPACE}
    _legend(draw, sorted(shown))
    for n, (each, picture) in enumerate(zip(samples, pictures, strict=True)):
        x, y = MARGIN + n % columns * across, 2 * MARGIN + CAPTION + n // columns * down
        draw.text((x, y), caption(each), INK, ImageFont.load_default(15))
        page.paste(Image.fromarray(picture), (x, y + CAPTION - 4))
    return page


def caption(sample: Sample) -> str:
    """The sample's time, and the share of its tokens that is kept."""
    return f"{sample.seconds:.1f} s    {(sample.fate == KEPT).mean():.0%} kept"


def _legend(draw: ImageDraw.ImageDraw, codes: list[int]) -> None:
    font = ImageFont.load_default(16)
    x = MARGIN
    for code in codes:
        box = (x, MARGIN, x + 22, MARGIN + 18)
        draw.rectangle(box, None if code == KEPT else COLORS[code], INK, 1)
        draw.text((x + 30, MARGIN), NAMES[code], INK, font)
        x += 30 + round(draw.textlength(NAMES[code], font)) + 28
