"""The device, before any test; and the models of `tests/models`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))

import elsewhere
import unmodified

from streamprune_triton.models import tiny


@pytest.fixture
def waits() -> Iterator[Counter[tuple[str, str]]]:
    """What the host has waited for, by (what, the line that asked)."""
    elsewhere.waits.clear()
    yield elsewhere.waits
    elsewhere.waits.clear()


@pytest.fixture(scope="module", params=tiny.NAMES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A tiny model on the CPU and its processor."""
    model, processor = unmodified.build(0, request.param)
    model.name_or_path = str(tmp_path_factory.mktemp(request.param))
    processor.tokenizer.save_pretrained(model.name_or_path)
    return model, processor


@pytest.fixture
def away(family: tuple[Any, Any]) -> Iterator[Any]:
    """Takes the model to the device, when it is called, and back behind the test."""
    model, _ = family
    yield lambda: model.to(elsewhere.NAME)
    model.to("cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of NumPy, in which Triton's interpreter computes."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"))
