"""Values from the command line, checked before any work begins."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..config import PruneConfig
    from ..streaming.memory import Memory

DEVICES = ("cpu", "cuda", "mps", "xpu")
# Fields of Memory that are options, the modes in which they mean something, their least values, and what they are
BOUNDS = {
    "max_carriers": (("carriers", "hybrid"), 1, "at most so many frames stay as carriers"),
    "recent_frames": (("hybrid",), 0, "so many newest frames keep their tokens"),
    "max_tokens": (("tokens", "hybrid"), 1, "at most so many visual tokens stay"),
}


def add_common(parser: argparse.ArgumentParser, fps: str, device: str) -> None:
    """The options that `video` and `demo` share; `fps` and `device` say their defaults."""
    parser.add_argument("--fps", type=number, default=None, help=f"frames a second to look at ({fps})")
    parser.add_argument("--ask", action="append", metavar="QUESTION", help="asked at the end; may be repeated")
    parser.add_argument("--config", metavar="KEY=VALUE,...", help="fields of PruneConfig, or a JSON file with them")
    parser.add_argument("--device", help=f"where the model runs: cpu, cuda, cuda:1 ({device})")
    parser.add_argument("--max-new-tokens", type=count, default=64, help="of an answer (64)")


def add_memory(parser: argparse.ArgumentParser) -> None:
    """The options that `memory` reads."""
    from ..streaming.memory import MODES, Memory

    parser.add_argument("--memory", choices=MODES, default=Memory.mode, help=f"what stays of a frame ({Memory.mode})")
    for name, (modes, least, text) in BOUNDS.items():
        default = getattr(Memory, name)
        text += f", of {' and '.join(modes)} ({'no bound' if default is None else default})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=partial(count, least=least), metavar="N", help=text)


def memory(args: argparse.Namespace) -> Memory:
    """The memory of the command line. Raises ValueError for an option that another mode has."""
    from ..streaming.memory import Memory

    given = {name: getattr(args, name) for name in BOUNDS if getattr(args, name) is not None}
    for name in given:
        modes, *_ = BOUNDS[name]
        if args.memory not in modes:
            raise ValueError(f"--{name.replace('_', '-')} is of --memory {' and '.join(modes)}, got {args.memory}")
    return Memory(args.memory, **given)


def check_folder(option: str, path: str | None) -> None:
    """Raises ValueError where there is no folder to write the file into."""
    if path is not None and (Path(path).is_dir() or not os.access(Path(path).parent, os.W_OK)):
        raise ValueError(f"{option}: {path} cannot be written: give a file in a folder that is there")


def check_file(option: str, path: str | None) -> None:
    """Raises FileNotFoundError where there is no such file to read."""
    if path is not None and not Path(path).is_file():
        raise FileNotFoundError(f"{option}: {path}: no such file: check the path")


def number(text: str) -> float:
    """For argparse: a float."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


def positive(text: str) -> float:
    """For argparse: a finite float above 0."""
    value = number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return value


def count(text: str, least: int = 1) -> int:
    """For argparse: a whole number of at least `least`."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text!r}")
    return int(text)


def prune_config(text: str | None, base: PruneConfig) -> PruneConfig:
    """`base` with the fields that `text` sets: "key=value,key=value", or the path of a JSON object.

    Raises ValueError or TypeError naming the field, FileNotFoundError for a missing JSON file.
    """
    if text is None:
        return base
    values = _from_json(Path(text)) if text.endswith(".json") or "=" not in text else _from_pairs(text)
    known = [field.name for field in fields(base)]
    for key in values:
        if key not in known:
            raise ValueError(f"--config: no field {key!r}; the fields are {', '.join(known)}")
    try:
        return replace(base, **values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"--config: {error}") from error


def _from_pairs(text: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in text.split(","):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not (key and equals and value):
            raise ValueError(f"--config: expected key=value, got {pair!r}")
        if key in values:
            raise ValueError(f"--config: {key} is given twice")
        values[key] = _value(value)
    return values


def _value(text: str) -> object:
    if text.lower() in ("none", "null"):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def _from_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"--config: {path}: no such file; give a JSON file or key=value,...")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--config: {path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--config: {path} must hold one JSON object, got {type(values).__name__}")
    return values


def device_name(text: str | None) -> str:
    """A device that is there; by default the GPU, or the CPU where there is none. Raises ValueError."""
    import torch

    if text is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
        if device.type not in DEVICES:
            raise ValueError(f"must be of {', '.join(DEVICES)}")
        torch.empty(0, device=device)
    except Exception as error:  # torch raises whatever the device's own library does
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device: {text!r} cannot be used here ({reason}): give cpu, or leave it out") from error
    return text
