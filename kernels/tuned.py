"""Launch parameters: those that were searched for on this GPU (`configs/<gpu>.json`), else heuristic defaults."""

from __future__ import annotations

import json
import logging
import math
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import triton

FOLDER = Path(__file__).parent / "configs"
LOG = logging.getLogger("streamprune_triton")
# Said at every launch: Triton 3.9 warns where it is not, as 3.10 no longer fuses by default. Sums over D ask for it
# one by one (`strips.add_dots`) and are the same either way; the cache's rotations are not.
FUSED = {"enable_fp_fusion": True}


@dataclass(frozen=True)
class Order:
    """What the order of a sum over D depends on: a function of D, the dtype and the GPU, never of T or the batch.

    The warps are part of it, as they say which threads add up which partial sums.
    """

    block_d: int  # features of a token at once; default: 16 threads a strip, 16 bytes each
    slice: int  # features of a token in one program
    warps: int = 4

    @classmethod
    @lru_cache(maxsize=64)
    def default(cls, d: int, itemsize: int) -> Order:
        lanes = 16 // itemsize
        block_d = max(lanes, min(16 * lanes, triton.next_power_of_2(d)))
        return cls(block_d, 512).fitted(d)

    def fitted(self, d: int) -> Order:
        """The same for another D, with no slice wider than it."""
        return replace(self, slice=min(self.slice, triton.cdiv(d, self.block_d) * self.block_d))

    def valid(self, itemsize: int) -> bool:
        """Whether the kernels can be built so."""
        powers = all(v > 0 and v & (v - 1) == 0 for v in (self.block_d, self.warps))
        return powers and 16 <= self.block_d * itemsize <= 1024 and self.warps <= 16 and self.slice % self.block_d == 0


@dataclass(frozen=True)
class Free:
    """What no sum depends on, so that it may be chosen by the size of a launch as well."""

    parts: int  # programs that share the copy of a block of tokens
    frames: int  # at most so many frames a program of the fused pass walks through

    @classmethod
    def default(cls, d: int) -> Free:
        return cls(max(1, d // 1024), 8)


@dataclass(frozen=True)
class Entry:
    """What was found best for a dtype and D: one order, and free parameters by the number of tokens of a launch."""

    dtype: str
    d: int
    order: Order
    sizes: tuple[tuple[int, Free], ...]


def order(device: torch.device, dtype: torch.dtype, d: int) -> Order:
    """The order of the entry of this dtype whose D is nearest, else the default."""
    entry = _nearest(gpu_name(device), str(dtype), d)
    if entry is None:
        return Order.default(d, dtype.itemsize)
    return entry.order.fitted(d) if d >= entry.order.block_d else Order.default(d, dtype.itemsize)


def free(device: torch.device, dtype: torch.dtype, d: int, tokens: int) -> Free:
    """The free parameters of the nearest D and number of tokens, else the defaults."""
    entry = _nearest(gpu_name(device), str(dtype), d)
    if entry is None:
        return Free.default(d)
    return min(entry.sizes, key=lambda size: _ratio(size[0], max(1, tokens)))[1]


@lru_cache(maxsize=256)
def _nearest(gpu: str, dtype: str, d: int) -> Entry | None:
    entries = [entry for entry in _entries(gpu) if entry.dtype == dtype]
    return min(entries, key=lambda entry: _ratio(entry.d, d), default=None)


def _ratio(a: int, b: int) -> float:
    return abs(math.log(a / b))


@lru_cache(maxsize=8)
def gpu_name(device: torch.device) -> str:
    """The GPU's name as a file's: "NVIDIA H200" is "nvidia-h200"."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@lru_cache(maxsize=8)
def _entries(gpu: str) -> tuple[Entry, ...]:
    """The entries of a GPU's file, read once; none where there is no file, or one that cannot be used. Says which.

    It is said by logging and not as a warning: defaults are no fault of the caller's.
    """
    path = FOLDER / f"{gpu}.json"
    try:
        found = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        LOG.info("no tuned launch parameters for %s: heuristic defaults (benchmarks.tune searches)", gpu)
        return ()
    except (OSError, ValueError) as problem:
        LOG.warning("%s is not used, heuristic defaults instead: %s", path, problem)
        return ()
    LOG.info("launch parameters of %s", path)
    return found


def parse(text: str) -> tuple[Entry, ...]:
    """The entries of a file's text. Raises ValueError, in a line, where it is not as `configs/README.md` says."""
    try:
        return tuple(_entry(each) for each in json.loads(text)["entries"])
    except (KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"expected entries as configs/README.md has them, got {problem!r}") from None


def _entry(given: dict[str, Any]) -> Entry:
    dtype = getattr(torch, given["dtype"], None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype must be a name of torch's, got {given['dtype']!r}")
    d, block_d, width, warps = (_positive(given, name) for name in ("d", "block_d", "slice", "warps"))
    found = Order(block_d, width, warps)
    if not found.valid(dtype.itemsize):
        raise ValueError(f"{found} cannot be launched with {given['dtype']}")
    sizes = tuple((_positive(s, "tokens"), Free(_positive(s, "parts"), _positive(s, "frames"))) for s in given["sizes"])
    if not sizes:
        raise ValueError("sizes must hold one entry at least, got none")
    return Entry(str(dtype), d, found, sizes)


def _positive(given: dict[str, Any], name: str) -> int:
    value = given[name]
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return value


def forget() -> None:
    """Reads the files again from now on."""
    _nearest.cache_clear()
    _entries.cache_clear()
