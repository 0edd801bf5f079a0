"""What the tests of this folder are given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from streams import Heard

from streamprune_triton.models.base import Adapter
from streamprune_triton.streaming.generation import Decoding


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    heard, choose, forward = Heard(), Decoding.choose, Adapter.forward

    def chosen(self: Decoding, logits: torch.Tensor, seen: torch.Tensor) -> int:
        heard.logits.append(logits)
        heard.ids.append(choose(self, logits, seen))
        return heard.ids[-1]

    def read(
        self: Adapter,
        embeds: torch.Tensor,
        positions: torch.Tensor,
        cache: Any,
        mask: torch.Tensor | None = None,
        deepstack: Any = None,
    ) -> torch.Tensor:
        heard.embeds.append(embeds)
        heard.positions.append(positions)
        heard.deepstack.append(deepstack)
        return forward(self, embeds, positions, cache, mask, deepstack)

    monkeypatch.setattr(Decoding, "choose", chosen)
    monkeypatch.setattr(Adapter, "forward", read)
    return heard
