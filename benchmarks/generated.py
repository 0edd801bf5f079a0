"""Tables between markers in a Markdown file, and pictures, regenerated from rows alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from streamprune_triton.report.files import write_atomically

BEGIN, END = "<!-- benchmark:begin -->\n", "<!-- benchmark:end -->"


def inserted(text: str, table: str) -> str:
    """The text with the table between its markers. Raises ValueError where they are not there once each."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the markers {BEGIN.strip()} and {END} must be there once each, in this order")
    return text[: text.index(BEGIN) + len(BEGIN)] + table + text[text.index(END) :]


def settle(
    name: str, tables: Callable[[], dict[Path, str]], pictures: Callable[[], dict[Path, bytes]], check: bool
) -> int:
    """Writes tables and pictures, or only says whether the tables are up to date.

    Args:
        name: of the command, for messages on stderr.
        tables: what stands between the markers of each file. May raise ValueError or OSError.
        pictures: the plots, by file.
        check: write nothing.

    Returns:
        The exit code: 0, 1 where `check` finds another table, 2 where rows or markers cannot be read.
    """
    try:
        before = {path: (path.read_text(encoding="utf-8"), table) for path, table in tables().items()}
        after = {path: inserted(text, table) for path, (text, table) in before.items()}
    except (ValueError, OSError) as problem:
        print(f"{name}: {problem}", file=sys.stderr)
        return 2
    stale = [path for path, text in after.items() if text != before[path][0]]
    if check:
        for path in stale:
            print(f"{name}: the table in {path} is not what the rows give", file=sys.stderr)
        return int(bool(stale))
    for path, picture in pictures().items():
        write_atomically(path, picture)
    for path in stale:
        write_atomically(path, after[path].encode("utf-8"))
    return 0
