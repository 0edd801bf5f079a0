"""Compiling without a GPU, as the benchmarks' model of time does it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # for benchmarks

from benchmarks.compiled import TARGETS, Launch, Recorder, machine, record

__all__ = ["TARGETS", "Launch", "Recorder", "machine", "record"]
