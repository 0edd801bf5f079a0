"""The command `streamprune`: demo, video, bench, doctor.

Exit codes: 0 done, 1 a self-check failed, 2 bad input (one line on stderr says what and the cure), 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from . import bench, demo, doctor, video


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: the process's own) and returns the exit code."""
    try:
        args = _parser().parse_args(argv)
        return args.run(args)
    except SystemExit as done:  # --help and --version
        return int(done.code or 0)
    except KeyboardInterrupt:
        print("streamprune: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output, as `head` does, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that nothing is flushed into it at exit
        return 141
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"streamprune: {_one_line(error)}", file=sys.stderr)
        return 2


def _parser() -> Parser:
    parser = Parser(prog="streamprune", description="Streaming token pruning for video language models.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (demo, video, bench, doctor):
        command.add(commands)
    return parser


def _one_line(error: BaseException) -> str:
    """Libraries explain themselves over many lines; the first paragraph names what is wrong."""
    first = str(error).strip().split("\n\n")[0]
    return " ".join(first.split()) or type(error).__name__
