"""Small video files for the tests."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np


def write_clip(
    path: Path,
    stamps: list[int],
    time_base: Fraction = Fraction(1, 1000),
    size: tuple[int, int] = (48, 64),
    codec: str = "mpeg4",
    options: dict[str, str] | None = None,
) -> Path:
    """Writes one gray frame of brightness `brightness(n)` for each n-th of `stamps`, counted in `time_base`."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        stream.codec_context.time_base = time_base
        for n, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), brightness(n), np.uint8), format="rgb24")
            frame.pts, frame.time_base = stamp, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def brightness(n: int) -> int:
    return 20 + 10 * (n % 22)


def number(image: np.ndarray) -> int:
    """Which frame of a clip of at most 22 this is."""
    return round((float(image.mean()) - 20) / 10)
