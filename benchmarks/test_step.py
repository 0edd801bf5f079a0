"""`pytest benchmarks --benchmark-only`: ours and its peers on one small case, each checked before it is timed."""

from __future__ import annotations

import pytest
import torch

from .cases import Case
from .peers import PEERS
from .providers import providers
from .run import inputs

pytest.importorskip("pytest_benchmark", reason="needs pytest-benchmark")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CASE = Case(4, 8, 8, d=256, dtype="fp32")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch.compile's own
@pytest.mark.parametrize("name", ["ours", "ours, padded", *PEERS])
def test_step(benchmark, name: str):
    provider = next(p for p in providers(DEVICE) if p.name.split(" (")[0] == name)
    given = inputs(CASE, DEVICE, 0)
    error = provider.check(CASE, given)
    benchmark.group = f"{CASE.name} {CASE.dtype} on {DEVICE.type}"
    benchmark.extra_info["error"] = error

    def step() -> None:
        provider.run(given)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize(DEVICE)

    benchmark(step)
