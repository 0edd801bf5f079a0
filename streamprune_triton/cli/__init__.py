"""The command `streamprune`: demo, video, bench, doctor.

Exit codes: 0 done, 1 a self-check failed, 2 bad input (one line on stderr says what and the cure), 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__
from . import bench, demo, doctor, video


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: the process's own) and returns the exit code."""
    args = argparse.Namespace(command=None)
    try:
        args = _parser().parse_args(argv)
        return args.run(args)
    except SystemExit as done:  # --help and --version
        return int(done.code or 0)
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:  # whoever read the output, as `head` does, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that nothing is flushed into it at exit
        return 141
    except (ValueError, TypeError, OSError, ImportError, RuntimeError, MemoryError) as error:
        if _by_interrupt(error):
            return _interrupted()
        if isinstance(error, RuntimeError) and not _out_of_memory(error):
            raise
        print(f"streamprune: {_one_line(error)}{_cure(error, args.command)}", file=sys.stderr)
        return 2


def _parser() -> Parser:
    parser = Parser(prog="streamprune", description="Streaming token pruning for video language models.")
    parser.add_argument("--version", action="version", version=f"streamprune {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (demo, video, bench, doctor):
        command.add(commands)
    return parser


def _interrupted() -> int:
    print("streamprune: interrupted", file=sys.stderr)
    return 130


def _by_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind it: imports that transformers puts off report that as an ImportError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)


def _cure(error: BaseException, command: str | None) -> str:
    """What to do about it, for errors that do not say so themselves."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f": pip install {error.name.partition('.')[0]}"
    if _out_of_memory(error) and command == "bench":
        return ": try a smaller --case, or --cases"
    if _out_of_memory(error):
        return ": try a smaller --model, another --device, or --memory carriers"
    return ""


def _one_line(error: BaseException) -> str:
    """Libraries explain themselves over many lines; the first paragraph names what is wrong."""
    first = str(error).strip().split("\n\n")[0]
    return " ".join(first.split()) or type(error).__name__
