"""What must hold before anything is timed. Each raises AssertionError, and no row is written then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

import streamprune_triton as sp

from .bench import QUESTION, Bench, heard

TOLERANCE = 1e-4  # RMS of a difference of logits over their own, in float32; one step more or less is above 1e-2
ONE: dict[str, Any] = {"max_new_tokens": 1, "do_sample": False}


def close(got: torch.Tensor, expected: torch.Tensor) -> float:
    """The RMS of the difference over that of the expected logits (V,)."""
    assert bool(got.isfinite().all()), "logits are not finite"
    error = float((got - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    assert error < TOLERANCE, f"logits are off by {error:.2g} of their RMS, allowed is {TOLERANCE:.2g}"
    return error


def budget(bench: Bench, result: sp.PruneResult | None) -> None:
    """That exactly the budget of every step was kept."""
    assert result is not None, "no step was completed"
    counts = result.counts.tolist()
    assert set(counts) == {bench.kept}, f"steps must keep {bench.kept} tokens, kept {sorted(set(counts))}"


def held(bench: Bench, session: sp.StreamingSession, opening: int) -> None:
    """That the cache holds what the memory's bound says, behind `opening` rows of text."""
    steps, memory = session.stats.steps, session.memory
    rows = min(steps, memory.max_carriers) * (1 if memory.carriers else bench.kept)
    got = session.stats.kv_tokens - opening
    assert got == rows, f"after {steps} steps the cache must hold {rows} rows of video, holds {got}"


def first_logits(bench: Bench, session: sp.StreamingSession) -> torch.Tensor:
    """(V,) behind the question."""
    with heard(bench.model) as logits:
        session.ask(QUESTION, **ONE)
    return logits[0]


def together(bench: Bench, memory: sp.Memory, count: int, steps: int = 3) -> float:
    """Streams read in one pass, against each of them alone; the largest error of the first logits.

    Nothing is pruned: a tower rounds a batch differently, and a token at the edge of its budget might change sides.
    """
    size, config = bench.adapter.frames_per_step, sp.PruneConfig(temporal_threshold=None, spatial_threshold=None)
    one, many = ([bench.session(memory, config) for _ in range(count)] for _ in range(2))
    for n in range(steps):
        frames = [bench.frames((n + shift) * size, size) for shift in range(count)]
        sp.StreamingSession.append_many(many, frames)
        for session, each in zip(one, frames, strict=True):
            session.append(each)
    return max(close(first_logits(bench, b), first_logits(bench, a)) for a, b in zip(one, many, strict=True))


def captured(bench: Bench, memory: sp.Memory, steps: int = 6) -> float:
    """A short stream in fixed shapes, on a GPU replayed, against one that is read as it comes; as `streaming`."""
    size = bench.adapter.frames_per_step
    plain, fixed = (bench.session(memory, graphs=graphs) for graphs in (False, True))
    for n in range(steps):
        for session in (plain, fixed):
            budget(bench, session.append(bench.frames(n * size, size)))
    return close(first_logits(bench, fixed), first_logits(bench, plain))


@torch.no_grad()
def streaming(bench: Bench, memory: sp.Memory, steps: int = 6, call: int = 1) -> float:
    """A short stream read `call` steps at a time, against one forward of all that it read under the semantic mask.

    Returns the error of the first logits behind a question.
    """
    from transformers import DynamicCache

    adapter, size = bench.adapter, bench.adapter.frames_per_step
    with read(bench.model) as calls:
        session = bench.session(memory)
        opening = session.stats.kv_tokens
        for n in range(0, steps, call):
            budget(bench, session.append(bench.frames(n * size, call * size)))
        got = first_logits(bench, session)
    held(bench, session, opening)
    embeds, positions = (torch.cat(each, dim) for each, dim in zip(zip(*calls, strict=True), (0, 1), strict=True))
    frames, carriers = _owners(bench, steps, opening, len(embeds), memory.carriers)
    mask = sp.semantic_mask(frames, carriers)[0, 0] if memory.carriers else None
    hidden = adapter.forward(embeds, positions, DynamicCache(), mask)
    return close(got, adapter.logits(hidden[-1:])[0].float())


def _owners(bench: Bench, steps: int, opening: int, length: int, carriers: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(L,) the step of each token, -1 for text; (L,) where the carriers are."""
    size = bench.kept + carriers
    frames = torch.full((length,), -1)
    frames[opening : opening + steps * size] = torch.arange(steps).repeat_interleave(size)
    last = torch.zeros(length, dtype=torch.bool)
    if carriers:
        last[opening + size - 1 : opening + steps * size : size] = True
    return frames, last


@contextmanager
def read(model: Any) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Collects what the decoder is given: embeddings (L, D) and positions (3, L) of each call."""
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        calls.append((kwargs["inputs_embeds"][0], kwargs["position_ids"][-3:, 0].cpu()))

    handle = model.model.language_model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


@contextmanager
def exact(model: Any) -> Iterator[None]:
    """With the weights in float32, where a wrong step is not lost among roundings; then as they were, bit for bit."""
    dtypes, tf32 = [weight.dtype for weight in model.parameters()], torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = False  # of convolutions; that of matrices is off by default
        for weight in model.parameters():
            weight.data = weight.data.float()
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
        for weight, dtype in zip(model.parameters(), dtypes, strict=True):
            weight.data = weight.data.to(dtype)


def error(bench: Bench, what: str, check: Callable[[], float]) -> float | None:
    """The error of a check in float32, or None where it failed, which is said."""
    try:
        with exact(bench.model):
            found = check()
    except (AssertionError, RuntimeError, ValueError) as problem:
        bench.say(f"NO ROW  {what}: {str(problem).splitlines()[0][:200]}")
        return None
    bench.say(f"{what}: checked, error {found:.2g}")
    return found


def holds(bench: Bench, what: str, check: Callable[[], object]) -> bool:
    """Whether it raises nothing; what it raises is said."""
    try:
        check()
    except AssertionError as problem:
        bench.say(f"NO ROW  {what}: {problem}")
        return False
    return True
