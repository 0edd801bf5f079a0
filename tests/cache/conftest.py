"""Fixtures: the backend under test and the device that it runs on."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "operator"))  # for features.py and compiling.py

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_RUNS = importlib.util.find_spec("triton") is not None and (torch.cuda.is_available() or INTERPRETED)
_REASON = "needs Triton and a GPU, or TRITON_INTERPRET=1 set before Python starts"
_TRITON = pytest.param("triton", marks=pytest.mark.skipif(not _RUNS, reason=_REASON))


@pytest.fixture(params=["torch", _TRITON])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Who moves and turns rows: PyTorch on the CPU, or the kernels."""
    with mock.patch.dict(os.environ, {"TRITON_INTERPRET": "0"} if request.param == "torch" else {}):
        yield request.param


@pytest.fixture
def device(backend: str) -> torch.device:
    """Where the backend under test runs."""
    return torch.device("cuda", 0) if backend == "triton" and torch.cuda.is_available() else torch.device("cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """NumPy, in which Triton's interpreter computes, warns where a GPU does not."""
    for item in items:
        if INTERPRETED and "triton" in item.name:
            item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"))
