"""A report that a person looks at: which tokens of a video were kept, which dropped, and by which stage.

Needs Pillow and matplotlib, of the extra "video".
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

from ..attribution import attribute, budgeted
from .collect import Collector, Sample
from .files import make_directory, write_atomically

__all__ = ["Collector", "Sample", "attribute", "make_directory", "write"]

BUDGET_NOTE = "A budget decided: a dropped token is shown under the larger of its two similarities."


def write(
    directory: str | os.PathLike[str],
    collector: Collector,
    *,
    title: str,
    rows: Sequence[tuple[str, str]],
    answers: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Writes report.html (one file, no network needed), frames.png and shares.png, each whole or not at all.

    Args:
        directory: made where missing.
        collector: what it remembers of the stream is shown.
        title: of the page, such as the video's name.
        rows: the table, (name, value).
        answers: (question, answer).
        notes: shown at the top.

    Returns:
        The path of report.html.

    Raises:
        ValueError: the directory cannot be made or written to.
        ImportError: Pillow or matplotlib is not installed.
    """
    require()
    from .chart import chart
    from .page import page
    from .pictures import sheet

    directory = make_directory(directory)
    samples = collector.samples()
    if budgeted(collector.config):
        notes = [*notes, BUDGET_NOTE]
    curve = chart(collector)
    png = io.BytesIO()
    sheet(samples).save(png, "PNG", optimize=True)
    write_atomically(directory / "frames.png", png.getvalue())
    write_atomically(directory / "shares.png", curve)
    html = directory / "report.html"
    write_atomically(html, page(title, rows, samples, curve, answers, notes).encode())
    return html


def require() -> None:
    """Raises ImportError, with the cure, unless what draws the report is installed."""
    try:
        import matplotlib.figure  # noqa: F401
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"the report needs {error.name}, which is not installed: pip install matplotlib pillow"
        ) from error
