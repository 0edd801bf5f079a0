"""From pruned features to the rows that the language model reads: each step its text, kept tokens, carrier, text."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ..attribution import KEPT, Grounds, fate, grounds
from ..config import PruneConfig
from ..models.base import Adapter, DeepStack, Features
from ..result import PruneResult
from ..transfer import download
from .keeping import Death
from .past import Block, Past, Reading
from .rows import CARRIER, FOREVER, FRAME_BEGIN, FRAME_END, TOKEN, Rows

if TYPE_CHECKING:
    from ..models.positions import Layout


class Pruned(NamedTuple):
    """Steps of one stream behind the pruner, with what the host needs to know of them."""

    result: PruneResult
    levels: tuple[torch.Tensor, ...]  # DeepStack, (T, H, W, D) each
    fate: np.ndarray  # (T, H, W) uint8, see attribution
    carriers: np.ndarray | None  # (T, D) float32

    @classmethod
    def of(
        cls, results: list[PruneResult], features: list[Features], config: PruneConfig, carriers: bool
    ) -> list[Pruned]:
        """Of several streams. Here the host waits for the device, once: for what is kept, and for the carriers."""
        wanted = [each for result in results for each in grounds(result)]
        if carriers:
            wanted += [result.carriers for result in results if result.carriers is not None]
        host = iter(download(wanted))
        found = [fate(Grounds(*islice(host, len(Grounds._fields))), config) for _ in results]
        pooled: list[np.ndarray | None] = [each.float().numpy() for each in host]
        pooled = pooled or [None] * len(results)
        for result, fates in zip(results, found, strict=True):
            result.settle(int((fates == KEPT).sum()))
        rows = zip(results, features, found, pooled, strict=True)
        return [cls(result, x.levels, fates, each) for result, x, fates, each in rows]


class Plan(NamedTuple):
    """Steps ready to be read, and the past as it will be then, but for the cache and its rows."""

    readings: list[Reading]  # one a step
    deaths: list[list[Death]]
    past: Past


def plan(
    past: Past,
    pruned: Pruned,
    adapter: Adapter,
    layout: Layout,
    fps: float,
    config: PruneConfig,
    missing: int = 0,
    first: int = 0,
    last: int | None = None,
) -> Plan:
    """Rows, positions and deaths of the steps `first` to `last`; nothing is read.

    The very last of the steps repeats a frame for `missing` ones.
    """
    keeping, cursor, blocks, top = past.keeping.copy(), past.cursor, dict(past.blocks), past.top
    assert cursor is not None
    carriers = keeping.memory.carriers
    sources = _Sources(pruned, adapter, config, carriers, int((pruned.fate[:first] == KEPT).sum()))
    readings, deaths, said = [], [], past.said
    end = len(pruned.fate)
    for n in range(first, end if last is None else last):
        number = past.number + n - first
        absent = missing if n == end - 1 else 0
        before, behind = adapter.around(past.steps + n - first, fps, absent, first=not cursor.steps)
        new = {*before.tolist(), *behind.tolist()} - said  # hardly ever any, in a set that may be large
        said = said | new if new else said
        kept = np.flatnonzero(pruned.fate[n].ravel() == KEPT)
        place = layout.place(cursor, len(before), len(behind))
        rows = _rows(number, kept, pruned.fate[n].size, len(before), len(behind), carriers, place.positions.numpy())
        readings.append(sources.reading(number, n, before, behind, rows))
        embedding = None if pruned.carriers is None else pruned.carriers[n]
        own = len(kept) + (0 if carriers else len(before) + len(behind))
        deaths.append(keeping.admit(number, own, embedding))
        blocks[number], cursor = Block(len(before), len(behind), True), place.next
        top = max(top, int(place.positions.max()) + 1, layout.end(cursor))
    steps = len(readings)
    return Plan(
        readings,
        deaths,
        replace(
            past,
            keeping=keeping,
            cursor=cursor,
            top=top,
            blocks=blocks,
            number=past.number + steps,
            steps=past.steps + steps,
            said=said,
            grid=pruned.fate.shape[1:],
        ),
    )


def _rows(
    block: int, kept: np.ndarray, area: int, before: int, behind: int, carriers: bool, positions: np.ndarray
) -> Rows:
    """A step's rows in the order of reading."""
    carrier = [before + area] if carriers else []
    slot = np.concatenate([np.arange(before), before + kept, carrier, before + area + 1 + np.arange(behind)])
    slot = slot.astype(np.int64)
    kind = np.repeat([FRAME_BEGIN, TOKEN, CARRIER, FRAME_END], [before, len(kept), len(carrier), behind])
    return Rows(np.full_like(slot, block), slot, kind, np.full_like(slot, FOREVER), positions[:, slot])


class _Sources:
    """Hands out the embeddings of one step after the other."""

    def __init__(self, pruned: Pruned, adapter: Adapter, config: PruneConfig, carriers: bool, used: int) -> None:
        self._adapter = adapter
        self._tokens = pruned.result.tokens
        self._carriers = pruned.result.carriers if carriers else None
        self._levels = [level.flatten(0, 2)[pruned.result.indices] for level in pruned.levels]
        self._means = [pooled(level, pruned.result, config) for level in pruned.levels] if carriers else []
        self._used = used

    def reading(self, number: int, n: int, before: torch.Tensor, behind: torch.Tensor, rows: Rows) -> Reading:
        kept = int((rows.kind == TOKEN).sum())
        mine = slice(self._used, self._used + kept)
        self._used += kept
        parts = [self._tokens[mine]]
        if self._carriers is not None:
            parts.append(self._carriers[n : n + 1])
        if len(before):
            parts.insert(0, self._adapter.embed(before))
        if len(behind):
            parts.append(self._adapter.embed(behind))
        embeds = torch.cat(parts) if len(parts) > 1 else parts[0]
        if not self._levels:
            return Reading(number, embeds, rows)
        levels = [level[mine] for level in self._levels]
        if self._means:
            levels = [torch.cat([level, mean[n : n + 1]]) for level, mean in zip(levels, self._means, strict=True)]
        visual = torch.from_numpy((rows.kind == TOKEN) | (rows.kind == CARRIER))
        return Reading(number, embeds, rows, DeepStack(visual, tuple(levels)))


def pooled(level: torch.Tensor, result: PruneResult, config: PruneConfig) -> torch.Tensor:
    """(T, D): the carriers' rows of a DeepStack level (T, H, W, D), the mean over the tokens that the carrier is of."""
    rows, keep = level.flatten(1, 2), result.keep.flatten(1)
    chosen = rows.isfinite().all(-1)
    if config.carrier == "kept":
        chosen = torch.where(keep.any(1, keepdim=True), keep, chosen)
    total = torch.where(chosen[..., None], rows, 0.0).sum(1, dtype=torch.float32)
    return (total / chosen.sum(1, keepdim=True).clamp_min(1)).to(level.dtype)
