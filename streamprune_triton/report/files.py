"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path


def make_directory(path: str | os.PathLike[str]) -> Path:
    """The directory `path`, made where missing. Raises ValueError where a file is in the way or it is not writable."""
    directory = Path(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"report: {directory} is a file or lies under one: give a directory") from error
    except OSError as error:
        raise ValueError(f"report: {directory} cannot be made ({error.strerror}): give another directory") from error
    if not os.access(directory, os.W_OK):
        raise ValueError(f"report: {directory} cannot be written to: give another directory")
    return directory


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` beside `path` and renames it, so that nobody sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
