"""Reads text and steps into a session's cache."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..config import PruneConfig
from ..models.base import Adapter, DeepStack, Features
from ..models.positions import Cursor, Layout
from ..pruner import StreamPruner
from .compaction import Closing
from .conversation import Conversation
from .graphs import Graphs
from .keeping import Keeping
from .memory import Memory
from .past import Block, Past, Reading, evicted
from .rows import Rows
from .steps import Plan

if TYPE_CHECKING:
    from ..cache import CarrierCache

ROWS = 4096  # new tokens of one forward, where a step alone is not more: bounds the memory of its mask
QUESTION = 512  # rows for a question and its answer, set aside
MASKED = ("sdpa", "eager")  # attention that takes any mask


class Reader:
    """One model under one memory. Its methods turn a past into the next and write to its cache, so that only one of the
    two is valid: the next, or, where the cache is rolled back, as it must be when a method fails, the given one.

    Attention that takes no mask (FlashAttention) reads one step at a time, and the text behind a step by itself where
    rows leave in front of it: what leaves for a step, or behind it, has left before anything is read that is not to
    see it.

    Args:
        adapter: of the model.
        memory: what stays.
        fps: raw frames a second.
        system: the system text or None.
        cuda_graphs: whether steps and text run in fixed shapes, see `graphs`.

    Attributes:
        talk: the text around the videos.
        axes: of positions, 1 or 3.
        closing: of gaps between positions, in memories that have it so.
    """

    def __init__(
        self, adapter: Adapter, memory: Memory, fps: float, system: str | None, cuda_graphs: bool = False
    ) -> None:
        self.adapter, self.memory, self.fps = adapter, memory, fps
        self.talk = Conversation(adapter, system)
        self.closing = Closing(adapter, memory, fps) if memory.positions == "compact" else None
        self._layouts: dict[tuple[int, int], Layout] = {}
        self.axes = self.layout((1, 1)).axes
        kind = adapter.model.config.get_text_config()._attn_implementation
        self._one_by_one = kind not in MASKED
        if cuda_graphs and self._one_by_one:
            raise ValueError(f"cuda_graphs must be False where the model's attention takes no mask, got {kind!r}")
        self._graphs = Graphs(adapter) if cuda_graphs else None

    def fork(self) -> Reader:
        """Another, for a session that goes its own way: it has other memory."""
        if self._graphs is None:
            return self
        other = copy.copy(self)
        other._graphs = Graphs(self.adapter)
        return other

    def features(self, pixels: Sequence[Any]) -> list[Features]:
        """As `Adapter.many_features`."""
        if self._graphs is None or len(pixels) > 1:
            return self.adapter.many_features(pixels)
        return [self._graphs.features(pixels[0])]

    def begin(self, config: PruneConfig) -> Past:
        """A past that has read the text in front of the first video."""
        from ..cache import CarrierCache

        cache = CarrierCache(self.adapter.model.config)
        return self.open(Past(cache, Rows.none(self.axes), Keeping(self.memory), StreamPruner(config)))

    def layout(self, grid: tuple[int, int]) -> Layout:
        """Of the videos of a session, whose steps are H x W = grid."""
        if grid not in self._layouts:
            self._layouts[grid] = self.adapter.layout(self.talk.opening, grid, self.fps, self.memory.carriers)
        return self._layouts[grid]

    def reserve(self, past: Past, area: int) -> None:
        """Memory for all that the session's bounds allow, when a step's tokens are known: at the first step."""
        memory = self.memory
        steps = memory.recent_frames + 1 if memory.mode == "hybrid" else 1
        visual = steps * area if memory.mode != "tokens" else (memory.max_tokens or 0) + area
        around = sum(len(text) for text in self.adapter.around(0, self.fps))
        carriers = (memory.max_carriers + 1) * (1 + around) if memory.carriers else 0
        past.cache.reserve(len(past.rows) + visual + carriers + QUESTION)

    # Text

    def open(self, past: Past) -> Past:
        """With the text read that stands before the next video, where none is open."""
        if past.cursor is not None:
            return past
        ids, first = self.talk.before_video(past.turns), past.position
        self.read_text(past.cache, ids, first)
        past = self.noted(past, len(ids))
        return replace(past, cursor=Cursor(first + len(ids)), said=past.said.union(ids.tolist()))

    def read_text(self, cache: CarrierCache, ids: torch.Tensor, first: int) -> torch.Tensor:
        """(L, D) hidden states of text (L,) at positions from `first` on, behind all rows of the cache."""
        positions, embeds = torch.arange(first, first + len(ids)).expand(self.axes, -1), self.adapter.embed(ids)
        hidden = None if self._graphs is None else self._graphs.text(cache, embeds, positions)
        return self.adapter.forward(embeds, positions, cache) if hidden is None else hidden

    def noted(self, past: Past, count: int) -> Past:
        """The past whose cache has `count` more tokens of text than its rows say. Old turns may leave for them."""
        first, number = self.end(past), past.number
        keeping = past.keeping.copy()
        deaths = keeping.remember(number, count) if past.turns else []
        rows = past.rows.then([Rows.text(number, first, count, self.axes)]).dying(deaths, self.memory.carriers)
        blocks = {**past.blocks, number: Block(count, 0, False)}
        later = replace(past, rows=rows, keeping=keeping, blocks=blocks, number=number + 1, cursor=None)
        later = replace(later, position=first + count, top=max(past.top, first + count))
        return _without_empty_blocks(evicted(later, 2 * number + 2))

    def end(self, past: Past) -> int:
        """The position of the next token of text."""
        if past.cursor is None:
            return past.position
        return past.cursor.start if past.grid is None else self.layout(past.grid).end(past.cursor)

    def remembered(self, past: Past, cache: CarrierCache, question: str, ids: Sequence[int], answer: str) -> Past:
        """With a turn of the dialogue whose text, question and answer, is in the cache behind the past as `ids`."""
        turns = (*past.turns, *self.talk.turn(question, answer, past.cursor is not None))
        count = cache.get_seq_length() - len(past.rows)
        later = self.noted(replace(past, cache=cache, turns=turns), count)
        # Only the newest turns are asked for again, and only a bounded number can still be in the cache.
        turns = turns[-2 * max(1, len(later.keeping.dialogue)) :]
        return self.compact(replace(later, turns=turns, said=later.said.union(ids)))

    def compact(self, past: Past) -> Past:
        """With positions closed up where that is due."""
        if self.closing is None or past.grid is None:
            return past
        return self.closing.closed(past, self.layout(past.grid))

    # Steps

    def read_steps(self, past: Past, plan: Plan) -> Past:
        """The past with the steps of a plan read; they see each other as the memory's rules have it."""
        now, (readings, deaths, _) = past, _halved(plan) if self._one_by_one else plan
        for part in _rounds([len(reading.rows) for reading in readings], 0 if self._one_by_one else ROWS):
            now = self._read([now], [Plan(readings[part], deaths[part], now)])[0]
        return self._done(plan, now)

    def read_many(self, pasts: list[Past], plans: list[Plan]) -> list[Past]:
        """`read_steps` of several streams in one forward, where they are short enough for that."""
        sizes = [sum(len(reading.rows) for reading in plan.readings) for plan in plans]
        if self._one_by_one or sum(sizes) > ROWS or len(pasts) == 1:
            return [self.read_steps(past, plan) for past, plan in zip(pasts, plans, strict=True)]
        return [self._done(plan, now) for plan, now in zip(plans, self._read(pasts, plans), strict=True)]

    def _done(self, plan: Plan, now: Past) -> Past:
        past = replace(plan.past, cache=now.cache, rows=now.rows)
        return self.compact(_without_empty_blocks(past))

    def _read(self, pasts: list[Past], plans: list[Plan]) -> list[Past]:
        """With the plans' rows read, in one forward, and without the rows that nothing sees any more."""
        jobs = [self._job(past, plan) for past, plan in zip(pasts, plans, strict=True)]
        if sum(job.new for job in jobs):
            self._forward(jobs)
        return [evicted(replace(job.past, rows=job.rows), 2 * job.number + 2) for job in jobs]

    def _job(self, past: Past, plan: Plan) -> _Job:
        deaths = [death for each in plan.deaths for death in each]
        number = plan.readings[-1].number
        if self._one_by_one:
            past = evicted(replace(past, rows=past.rows.dying(deaths, self.memory.carriers)), 2 * number)
        new = Rows.none(self.axes).then([reading.rows for reading in plan.readings])
        rows = past.rows.then([new]).dying(deaths, self.memory.carriers)
        return _Job(past, plan.readings, rows, len(new), number)

    def _forward(self, jobs: list[_Job]) -> None:
        readings = [reading for job in jobs for reading in job.readings]
        embeds = torch.cat([reading.embeds for reading in readings])
        positions = torch.cat([torch.from_numpy(reading.rows.position) for reading in readings], 1)
        cache: Any
        stack = stacked(readings)
        if self._graphs is not None and len(jobs) == 1:
            job = jobs[0]
            if self._graphs.step(job.past.cache, embeds, positions, job.rows.sight(job.new), stack):
                return
        if len(jobs) == 1:
            cache, mask = jobs[0].past.cache, jobs[0].rows.seen(jobs[0].new)
        else:
            from ..cache import PackedCache

            cache = PackedCache([job.past.cache for job in jobs], [job.new for job in jobs])
            mask = torch.block_diag(*(job.rows.sight(job.new) for job in jobs))
        self.adapter.forward(embeds, positions, cache, mask, stack)

    def skipped(self, past: Past, steps: int) -> Past:
        """Behind steps that never came. Where gaps are closed, positions tell as many as there is room for."""
        cursor, layout = past.cursor, self.layout(past.grid or (1, 1))
        if cursor is not None:
            told = steps if self.closing is None else self.closing.gap(past, layout, steps)
            cursor = layout.skip(cursor, told)
        return replace(past, steps=past.steps + steps, cursor=cursor)


def _without_empty_blocks(past: Past) -> Past:
    block = past.rows.block
    live = {*block[:-1][block[1:] != block[:-1]].tolist(), *block[-1:].tolist()}  # mostly as the row behind
    return replace(past, blocks={number: block for number, block in past.blocks.items() if number in live})


class _Job(NamedTuple):
    """What one stream has to read."""

    past: Past
    readings: list[Reading]
    rows: Rows  # the new ones included
    new: int
    number: int  # of the last step


def _halved(plan: Plan) -> Plan:
    """With the text behind a step as a reading of its own, where rows leave in front of it."""
    pairs = []
    for reading, deaths in zip(plan.readings, plan.deaths, strict=True):
        behind = reading.rows.time > 2 * reading.number
        apart = any(death.time > 2 * reading.number for death in deaths) and behind.any()
        pairs += [(part, deaths) for part in (reading.split(int(behind.argmax())) if apart else [reading])]
    return Plan([reading for reading, _ in pairs], [deaths for _, deaths in pairs], plan.past)


def _rounds(counts: list[int], most: int) -> Iterator[slice]:
    """Slices of steps, each as many as have at most `most` rows together, at least one."""
    first = total = 0
    for n, count in enumerate(counts):
        if n > first and total + count > most:
            yield slice(first, n)
            first, total = n, 0
        total += count
    if first < len(counts):
        yield slice(first, len(counts))


def stacked(readings: list[Reading]) -> DeepStack | None:
    """The DeepStack rows of several steps."""
    every = [(len(reading.rows), reading.deepstack) for reading in readings]
    found = [stack for _, stack in every if stack is not None]
    if not found:
        return None
    at = torch.cat([torch.zeros(count, dtype=torch.bool) if stack is None else stack.at for count, stack in every])
    return DeepStack(at, tuple(torch.cat(levels) for levels in zip(*(stack.levels for stack in found), strict=True)))
