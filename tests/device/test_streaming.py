"""Sessions on a device: the answers of the CPU, and one wait a step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import unmodified
from streams import GREEDY, SOME, WHAT, fed, told

from streamprune_triton import Memory
from streamprune_triton.ops import interpreting

MEMORIES = {
    "carriers": Memory("carriers", max_carriers=2),
    "hybrid": Memory("hybrid", max_carriers=2, recent_frames=1, positions="compact"),
}
FRAMES = unmodified.film(8)
COUNTS = "streamprune_triton/transfer.py: host = "  # what is kept has to reach the host
LEFT_OUT = () if interpreting() else ("streamprune_triton/reference/",)  # the specification waits, the kernels do not


@pytest.fixture(autouse=True)
def streamed(family: tuple[Any, Any]) -> None:
    kind = family[0].config.model_type
    if kind in unmodified.UNSTREAMED:
        pytest.skip(f"no session runs on {kind}")


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
def test_an_append_waits_once(
    family: tuple[Any, Any], away: Any, waits: Counter[tuple[str, str]], memory: Memory
) -> None:
    """Inside a model as well nothing does whose tower can be told what it derives."""
    expected = fed(family, FRAMES, 2, SOME, memory).ask(WHAT, **GREEDY)
    away()
    for graphs in (False, True):
        session = fed(family, FRAMES[:4], 2, SOME, memory, cuda_graphs=graphs)
        waits.clear()
        for n in range(4, 8, 2):
            session.append(FRAMES[n : n + 2])
        others = LEFT_OUT if told(session._reader.adapter) else (*LEFT_OUT, "transformers/")
        lines = {line: n for (_, line), n in waits.items() if not line.startswith(others)}
        (only,) = lines
        assert only.startswith(COUNTS)
        assert lines[only] == 2, "one an append"
        assert session.ask(WHAT, **GREEDY) == expected
