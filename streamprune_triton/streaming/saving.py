"""A session's past in a safetensors file: tensors by name, and the rest as JSON in its header."""

from __future__ import annotations

import json
import os
import secrets
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..config import PruneConfig
from ..models.positions import Cursor
from ..pruner import StreamPruner
from .keeping import Keeping, cosine
from .past import Block, Past
from .rows import Rows
from .stats import Stats

if TYPE_CHECKING:
    from .session import StreamingSession

PREFIX = "streamprune-session-"
FORMAT = f"{PREFIX}1"  # counts up when a file means something else
ROWS = ("block", "slot", "kind", "dies", "position")


@dataclass(frozen=True)
class Kind:
    """What a session must be to go on from a file."""

    model: dict[str, Any]
    config: dict[str, Any]
    memory: dict[str, Any]
    fps: float
    system: str | None

    @classmethod
    def of(cls, session: StreamingSession) -> Kind:
        config = session._model.config
        text = config.get_text_config()
        model = {
            "model_type": config.model_type,
            "layers": text.num_hidden_layers,
            "hidden_size": text.hidden_size,
            "num_key_value_heads": getattr(text, "num_key_value_heads", None),
            "head_dim": getattr(text, "head_dim", None),
            "dtype": str(session._model.dtype),
        }
        return cls(model, described(session.config), asdict(session.memory), session.fps, session.system)


def described(config: PruneConfig) -> dict[str, Any]:
    """A configuration in the terms of JSON."""
    values = {each.name: getattr(config, each.name) for each in fields(config)}
    if isinstance(config.mask, torch.Tensor):
        values["mask"] = config.mask.tolist()
    return values


def save(path: str | os.PathLike[str], past: Past, kind: Kind, stats: Stats) -> None:
    """Writes the file, all or nothing. Raises OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = _file(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path must be in a folder that is there, got {str(path)!r}")
    header = {"format": FORMAT, "kind": json.dumps(asdict(kind)), "past": json.dumps(_header(past, stats))}
    tensors = {name: each.cpu().contiguous() for name, each in _tensors(past).items()}
    header["crc32"] = _checksum(header, tensors)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        save_file(tensors, partial, header)
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, (SafetensorError, OSError)):
            reason = str(error).replace(str(partial), path.name)
            raise OSError(f"path {str(path)!r} cannot be written: {reason}") from error
        raise


def _file(path: object) -> Path:
    """Raises TypeError for what is no path, OSError for a folder, a device or a pipe."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or a path, of a file, got {type(path).__name__}")
    found = Path(path)
    if found.is_dir():
        raise IsADirectoryError(f"path must be of a file, got the folder {str(found)!r}")
    if found.exists() and not found.is_file():  # a save would put a file in its place
        raise OSError(f"path must be of a file, got {str(found)!r}, which is a device or a pipe")
    return found


def load(path: str | os.PathLike[str], fresh: Past, kind: Kind, device: torch.device) -> tuple[Past, Stats]:
    """(the past, the statistics) of a file.

    Args:
        path: of the file.
        fresh: any past of the session that goes on.
        kind: of that session.
        device: of its model.

    Raises:
        OSError, ValueError: as `StreamingSession.load` has it.
    """
    from safetensors import SafetensorError, safe_open

    path = _file(path)
    if not path.exists():
        raise FileNotFoundError(f"path must be of a file that is there, got {str(path)!r}")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"path must be a session's file, got {str(path)!r}: {error}") from error
    except OSError as error:
        raise OSError(f"path {str(path)!r} cannot be read: {error}") from error
    _check_format(path, header.get("format"))
    if header.pop("crc32", None) != _checksum(header, tensors):
        raise ValueError(f"path must be a session's file, and {str(path)!r} is damaged: its checksum is another")
    _check_kind(json.loads(header["kind"]), json.loads(json.dumps(asdict(kind))))
    values = json.loads(header["past"])
    return _past(values, tensors, fresh, device), Stats(**values["stats"])


def _checksum(header: dict[str, str], tensors: dict[str, torch.Tensor]) -> str:
    """CRC-32 of all that a file holds: damage is found, forgery is not."""
    crc = zlib.crc32(json.dumps(header, sort_keys=True).encode())
    for name, each in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {each.dtype} {tuple(each.shape)}".encode(), crc)
        crc = zlib.crc32(each.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def _check_format(path: Path, found: str | None) -> None:
    if found is None or not found.startswith(PREFIX):
        raise ValueError(f"path must be a session's file of format {FORMAT}, got {str(path)!r} of format {found!r}")
    if found != FORMAT:
        raise ValueError(
            f"path must be a session's file of format {FORMAT}, got {str(path)!r} of format {found}: load it with the "
            "release of streamprune-triton that saved it, or append the stream's frames again"
        )


def _check_kind(saved: dict[str, Any], own: dict[str, Any]) -> None:
    for name, value in own.items():
        pairs = dict(_differing(name, value, saved.get(name)))
        if pairs:
            ours, theirs = (", ".join(f"{field} = {pair[n]!r}" for field, pair in pairs.items()) for n in (0, 1))
            raise ValueError(f"path must hold a session of {ours}, got {theirs}")


def _differing(name: str, own: object, saved: object) -> Iterator[tuple[str, tuple[object, object]]]:
    """The names of what differs, of dictionaries their fields', with both values."""
    if isinstance(own, dict) and isinstance(saved, dict):
        for field in {**own, **saved}:
            yield from _differing(f"{name}.{field}", own.get(field), saved.get(field))
    elif own != saved:
        yield name, (own, saved)


def _header(past: Past, stats: Stats) -> dict[str, Any]:
    keeping = past.keeping
    return {
        "blocks": [[number, *block] for number, block in past.blocks.items()],
        "cursor": past.cursor,
        "position": past.position,
        "top": past.top,
        "number": past.number,
        "steps": past.steps,
        "turns": past.turns,
        "said": sorted(past.said),
        "grid": past.grid,
        "visual": keeping.visual,
        "carriers": [block for block, _ in keeping.carriers],
        "dialogue": keeping.dialogue,
        "stats": asdict(stats),
    }


def _tensors(past: Past) -> dict[str, torch.Tensor]:
    tensors = {f"cache.{name}": each for name, each in past.cache.state().items()}
    tensors |= {f"rows.{name}": torch.from_numpy(getattr(past.rows, name)) for name in ROWS}
    tensors |= {f"pruner.{name}": each for name, each in past.pruner.state_dict().items()}
    if past.keeping.carriers:
        tensors["carriers"] = torch.from_numpy(np.stack([each for _, each in past.keeping.carriers]))
    if past.waiting is not None:
        tensors["waiting"] = torch.from_numpy(past.waiting)
    return tensors


def _past(values: dict[str, Any], tensors: dict[str, torch.Tensor], fresh: Past, device: torch.device) -> Past:
    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {name[len(prefix) :]: each for name, each in tensors.items() if name.startswith(prefix)}

    cache = fresh.cache.fork()
    cache.truncate(0)
    cache.restore({name: each.to(device) for name, each in part("cache.").items()})
    pruner = StreamPruner(fresh.pruner.config)
    pruner.load_state_dict({name: each.to(device) for name, each in part("pruner.").items()})
    waiting = tensors.get("waiting")
    rows = part("rows.")
    return replace(
        fresh,
        cache=cache,
        rows=Rows(*(rows[name].numpy() for name in ROWS)),
        keeping=_keeping(values, tensors.get("carriers"), fresh.keeping),
        pruner=pruner,
        blocks={number: Block(*block) for number, *block in values["blocks"]},
        cursor=None if values["cursor"] is None else Cursor(*values["cursor"]),
        position=values["position"],
        top=values["top"],
        number=values["number"],
        steps=values["steps"],
        turns=tuple(values["turns"]),
        said=frozenset(values["said"]),
        grid=None if values["grid"] is None else tuple(values["grid"]),
        waiting=None if waiting is None else waiting.numpy(),
    )


def _keeping(values: dict[str, Any], carriers: torch.Tensor | None, fresh: Keeping) -> Keeping:
    keeping = Keeping(fresh.memory)
    keeping.visual = [tuple(each) for each in values["visual"]]
    keeping.dialogue = [tuple(each) for each in values["dialogue"]]
    embeddings = [] if carriers is None else list(carriers.numpy())
    keeping.carriers = list(zip(values["carriers"], embeddings, strict=True))
    pairs = zip(keeping.carriers, keeping.carriers[1:], strict=False)
    keeping.similar = [cosine(one, two) for (_, one), (_, two) in pairs]
    return keeping
