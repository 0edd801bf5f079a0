"""What a frame costs before a session sees it, where PyAV is installed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import perf_counter

from streamprune_triton.video import Video

from .bench import Bench, Values

RATE = 30  # frames a second of the file, and of those asked for: every one is decoded


def decode(bench: Bench) -> Values:
    """Milliseconds of a frame of an H.264 file, a run at a time; empty without PyAV or its encoder."""
    try:
        import av  # noqa: F401
    except ImportError:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        try:
            _encode(path, bench)
        except (OSError, ValueError) as problem:
            bench.say(f"NO ROW  decode: {problem}")
            return {}
        return {"decode": ("ms", [_decoded(path) for _ in range(bench.sizes.runs)])}


def _encode(path: Path, bench: Bench) -> None:
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE)
        stream.height, stream.width = bench.film.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in bench.film:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def _decoded(path: Path) -> float:
    start = perf_counter()
    with Video(path, fps=RATE) as video:
        count = sum(1 for _ in video)
    return 1e3 * (perf_counter() - start) / count
