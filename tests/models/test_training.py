"""Training with carriers under the semantic-aware mask: gradients reach the language model and the tower."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import unmodified
from streams import SOME

import streamprune_triton as sp
from streamprune_triton import models
from streamprune_triton.models.base import attention_mask
from streamprune_triton.models.positions import Cursor


def rows_with_grad(model: Any, given: dict[str, Any]) -> torch.Tensor:
    """(L, D) what the decoder of an unmodified model is given, part of autograd's graph."""
    calls: list[torch.Tensor] = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    model.model(**given)
    hook.remove()
    return calls[0][0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
@pytest.mark.parametrize("carriers_only", [False, True])
def test_gradients_reach_tower_and_language_model(family: str, attention: str, carriers_only: bool):
    """As in VideoScan's stage 1 (carriers are the only visual input) and stage 2 (kept tokens, then carriers)."""
    model, processor = unmodified.build(0, family)
    model.set_attn_implementation(attention)
    adapter = models.adapter(model)(model, processor)
    given = unmodified.inputs(model, processor, unmodified.film(8), "Who?", 1.0)
    rows = rows_with_grad(model, given)
    ((video,),) = adapter.grids(given["input_ids"], given)
    result = sp.prune(rows[video], SOME)
    text, parts, frames, carriers, positions = adapter.text(chat("Who?")), [], [], [], []
    layout = adapter.layout(text[0], tuple(video.shape[1:]), 1.0, True)
    cursor = Cursor(len(text[0]))
    parts.append(adapter.embed(text[0]))
    positions.append(torch.arange(len(text[0])).expand(layout.axes, -1))
    starts = result.cu_counts.tolist()
    for n, keep in enumerate(result.keep.flatten(1)):
        own = result.tokens[starts[n] : starts[n + 1]] if not carriers_only else result.tokens[:0]
        slots = torch.cat([keep.nonzero().flatten()[: len(own)], torch.tensor([keep.numel()])])
        parts += [own, result.carriers[n : n + 1]]
        frames.append(torch.full((len(own) + 1,), n))
        carriers.append(torch.arange(len(own) + 1) == len(own))
        place = layout.place(cursor, 0, 0)
        positions.append(place.positions[:, slots])
        cursor = place.next
    end = layout.end(cursor)
    parts.append(adapter.embed(text[1]))
    positions.append(torch.arange(end, end + len(text[1])).expand(layout.axes, -1))
    ends = [torch.full((len(piece),), -1) for piece in text]
    no = [torch.zeros(len(piece), dtype=torch.bool) for piece in text]
    mask = sp.semantic_mask(torch.cat([ends[0], *frames, ends[1]]), torch.cat([no[0], *carriers, no[1]]))
    stacked = torch.cat(positions, 1)
    hidden = model.model.language_model(
        inputs_embeds=torch.cat(parts)[None],
        position_ids=stacked[:, None] if layout.axes == 3 else stacked,
        attention_mask=attention_mask(mask[0, 0], model),
    ).last_hidden_state
    loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[0, -1:]), torch.tensor([5]))
    loss.backward()
    tower = getattr(model.model, "visual", None) or model.model.vision_tower
    for module in (tower, model.model.language_model.layers[0]):
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        assert gradients
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
        assert any(gradient.abs().max() > 0 for gradient in gradients)


def chat(question: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}]
