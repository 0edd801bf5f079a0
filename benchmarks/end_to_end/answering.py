"""Who answers a question about a clip, each from raw frames, and how each is checked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

import streamprune_triton as sp
from streamprune_triton import compat

from . import checks
from .bench import QUESTION, Bench, heard
from .prompts import Prompt, logits_of
from .stages import Parts, Watch, of_append

Keep = torch.Tensor  # (T, H, W) bool
Run = Callable[[Bench, int, "Watch | None"], "Keep | None"]


@dataclass(frozen=True)
class Provider:
    """One way to answer.

    Attributes:
        name: as in the rows.
        run: (bench, tokens of the answer, what notes its stages or None) -> what it kept, None where it keeps all.
        by_itself: how it is checked, in place of what `check` says.
    """

    name: str
    run: Run
    by_itself: Callable[[Bench], float] | None = None

    def check(self, bench: Bench) -> float:
        """The error of its first logits against the model that reads all tokens, what was dropped hidden by a mask."""
        if self.by_itself is not None:
            return self.by_itself(bench)
        with heard(bench.model) as logits:
            keep = self.run(bench, 1, None)
        self._count(bench, keep)
        return checks.close(logits[0], logits_of(bench, keep))

    def budget(self, bench: Bench) -> None:
        """That it keeps the budget, and answers, in the model's own dtype."""
        with heard(bench.model) as logits:
            self._count(bench, self.run(bench, 1, None))
        assert bool(logits[0].isfinite().all()), f"{self.name}: logits are not finite"

    def _count(self, bench: Bench, keep: Keep | None) -> None:
        if keep is not None:
            kept, budget = int(keep.sum()), len(keep) * bench.kept
            assert kept == budget, f"{self.name} must keep {budget} tokens, kept {kept}"


def providers(bench: Bench) -> list[Provider]:
    """All, the unmodified model first."""
    steps = bench.sizes.clip // bench.adapter.frames_per_step

    def carriers(bench: Bench) -> float:
        return checks.streaming(bench, bench.memory("carriers"), steps, steps)

    return [
        Provider("unmodified", unmodified),
        Provider("ours, tokens", ours("tokens")),
        Provider("ours, carriers", ours("carriers"), carriers),
        Provider("pruned", pruned),
        Provider("dtd", gathered(_dtd(bench))),
        Provider("evs", gathered(_evs(bench))),
    ]


def ours(mode: str) -> Run:
    """A new session, the clip in one call, the question."""

    def run(bench: Bench, count: int, watch: Watch | None) -> Keep | None:
        session, frames = bench.session(bench.memory(mode)), bench.frames(0, bench.sizes.clip)
        results: list[sp.PruneResult | None] = []

        def append() -> None:
            results.append(session.append(frames))

        if watch is None:
            append()
        else:
            spent = of_append(bench.model, [session], append)
            watch.spent |= {stage: seconds for stage, seconds in spent.items() if stage != "rest"}
        with _noted(watch, "answer"):
            session.ask(QUESTION, **answer(bench, count))
        return None if results[0] is None else results[0].keep

    return run


def unmodified(bench: Bench, count: int, watch: Watch | None) -> None:
    """`generate` on the whole clip."""
    parts = Parts(bench.model)
    with nullcontext() if watch is None else parts.watched():
        with _noted(watch, "preprocess"):
            patches, grid = bench.adapter.pixels(bench.frames(0, bench.sizes.clip))
        given = Prompt.of(bench, grid).inputs(bench, patches)
        with _noted(watch, "generate"):
            _generate(bench, given, count)
    if watch is not None:
        begin, read = parts.calls["decoder"][0]
        del watch.spent["generate"]
        watch.spent["vision"], watch.spent["prefill"] = parts.seconds("vision"), read - begin
        watch.spent["answer"] = parts.calls["decoder"][-1][1] - read


def pruned(bench: Bench, count: int, watch: Watch | None) -> Keep:
    """The same inside of `sp.pruned`; it prunes right before the decoder, which counts as prefill."""
    with sp.pruned(bench.model, bench.config) as report:
        unmodified(bench, count, watch)
    return report.keep[0]


def gathered(decide: Callable[[torch.Tensor], Keep]) -> Run:
    """A prompt of which the decoder reads the kept tokens, at the positions of the whole one.

    Args:
        decide: features (T, H, W, D) -> what stays.
    """

    @torch.no_grad()
    def run(bench: Bench, count: int, watch: Watch | None) -> Keep:
        with _noted(watch, "preprocess"):
            pixels = bench.adapter.pixels(bench.frames(0, bench.sizes.clip))
        with _noted(watch, "vision"):
            x = bench.adapter.features(pixels).x
        with _noted(watch, "prune"):
            keep = decide(x)
            rows = x[keep]
        prompt = Prompt.of(bench, pixels[1])
        with _noted(watch, "prefill"):
            hidden, cache, position = _prefilled(bench, prompt, keep, rows)
        with _noted(watch, "answer"):
            _greedy(bench, hidden, cache, position, count)
        return keep

    return run


def _prefilled(bench: Bench, prompt: Prompt, keep: Keep, rows: torch.Tensor) -> tuple[torch.Tensor, Any, int]:
    """(L, D) hidden states of the prompt with `rows` alone in the video's place, their cache, the next position."""
    from transformers import DynamicCache

    cache, whole = DynamicCache(), prompt.positions(bench)
    stays = torch.ones(whole.shape[1], dtype=torch.bool)
    stays[prompt.video] = keep.flatten().cpu()
    hidden = bench.adapter.forward(prompt.embeds(bench, rows), whole[:, stays], cache)
    return hidden, cache, int(whole.max()) + 1


def _greedy(bench: Bench, hidden: torch.Tensor, cache: Any, position: int, count: int) -> None:
    """`count` tokens, the likeliest each, waited for at the end."""
    adapter = bench.adapter
    token = adapter.logits(hidden[-1:])[0].argmax()
    for n in range(count - 1):
        hidden = adapter.forward(adapter.embed(token[None]), torch.full((3, 1), position + n), cache)
        token = adapter.logits(hidden[-1:])[0].argmax()
    int(token)


def _dtd(bench: Bench) -> Callable[[torch.Tensor], Keep]:
    """DTD at the threshold that keeps the budget of this clip: the first frame, and what differs most."""
    config = sp.PruneConfig(temporal_threshold=1.0, spatial_threshold=None, mask=None, carrier=None)
    thresholds: dict[torch.dtype, float] = {}

    def decide(x: torch.Tensor) -> Keep:
        if x.dtype not in thresholds:  # at the first run, which is not timed
            similar = sp.prune(x, config).temporal[1:].flatten().sort().values
            thresholds[x.dtype] = float(similar[len(x) * bench.kept - bench.tokens - 1])
        return compat.dtd(x, thresholds[x.dtype])

    return decide


def _evs(bench: Bench) -> Callable[[torch.Tensor], Keep]:
    def decide(x: torch.Tensor) -> Keep:
        q = 1 - (len(x) * bench.kept + 0.5) / x.shape[:3].numel()  # rounded down to the budget
        return compat.compute_retention_mask(x, x.shape[:3], 1, q).view(x.shape[:3])

    return decide


def _generate(bench: Bench, given: dict[str, torch.Tensor], count: int) -> None:
    """With the model left as it was."""
    before = bench.model.model.rope_deltas
    try:
        bench.model.generate(**given, **answer(bench, count), pad_token_id=0)
    finally:
        bench.model.model.rope_deltas = before
    if bench.device.type == "cuda":
        torch.cuda.synchronize(bench.device)


def _noted(watch: Watch | None, stage: str) -> AbstractContextManager[None]:
    return nullcontext() if watch is None else watch(stage)


def answer(bench: Bench, count: int) -> dict[str, Any]:
    """Of `generate` and `ask`: so many tokens. An id that no model chooses ends it, so that all have one length."""
    end = int(bench.model.config.get_text_config().vocab_size)
    return {"max_new_tokens": count, "do_sample": False, "eos_token_id": end}
