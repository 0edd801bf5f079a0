"""Fixtures: the backend under test and the device that it runs on."""

from __future__ import annotations

import importlib
import importlib.util

import pytest
import torch
from features import INTERPRETED
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "streamprune",
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=False,
    phases=[Phase.explicit, Phase.generate, *([] if INTERPRETED else [Phase.shrink])],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("streamprune")


def _why_no_triton() -> str:
    """Why the Triton kernels cannot run here; empty where they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not (torch.cuda.is_available() or INTERPRETED):
        return "needs a GPU, or TRITON_INTERPRET=1 set before Python starts"
    try:
        importlib.import_module("streamprune_triton.kernels")
    except ImportError as error:
        return f"streamprune_triton.kernels cannot be imported: {error}"
    return ""


_REASON = _why_no_triton()
_TRITON = pytest.param("triton", marks=pytest.mark.skipif(bool(_REASON), reason=_REASON or "available"))


@pytest.fixture(scope="session", params=["torch", _TRITON])
def backend(request: pytest.FixtureRequest) -> str:
    """The backend under test."""
    return request.param


@pytest.fixture(scope="session")
def device(backend: str) -> torch.device:
    """Where the backend under test runs: the reference on the CPU, the kernels on a GPU if there is one."""
    return torch.device("cuda" if backend == "triton" and torch.cuda.is_available() else "cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """NumPy, in which Triton's interpreter computes, warns where hostile values overflow; that is no failure."""
    for item in items:
        if INTERPRETED and "triton" in item.name:
            item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"))
