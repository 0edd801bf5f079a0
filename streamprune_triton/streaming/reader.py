"""Reads text and steps into a session's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..config import PruneConfig
from ..models.base import Adapter, DeepStack
from ..models.positions import Cursor, Layout
from ..pruner import StreamPruner
from .compaction import compacted, relaid
from .keeping import Keeping
from .memory import Memory
from .past import Block, Past, Reading
from .rows import Rows
from .steps import Plan

if TYPE_CHECKING:
    from ..cache import CarrierCache, Rotary

ROWS = 4096  # new tokens of one forward, where a step alone is not more: bounds the memory of its mask
QUESTION = 512  # rows for a question and its answer, set aside
Turns = Sequence[dict[str, Any]]  # messages for a chat template
MASKED = ("sdpa", "eager")  # attention that takes any mask


class Reader:
    """One model under one memory. Its methods turn a past into the next, and leave the given one valid if they fail.

    Attention that takes no mask (FlashAttention) reads one step at a time, and what leaves for a step leaves before
    it is read: there a failed read has lost the oldest frames, and nothing else.

    Args:
        adapter: of the model.
        memory: what stays.
        fps: raw frames a second.
        system: the system text or None.

    Attributes:
        opening: (L,) token ids in front of the first video.
    """

    def __init__(self, adapter: Adapter, memory: Memory, fps: float, system: str | None) -> None:
        self.adapter, self.memory, self.fps = adapter, memory, fps
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self.opening = self._pieces((), "")[0]
        self._layouts: dict[tuple[int, int], Layout] = {}
        self._axes = self.layout((1, 1)).axes
        self._one_by_one = adapter.model.config.get_text_config()._attn_implementation not in MASKED

    def begin(self, config: PruneConfig) -> Past:
        """A past that has read the text in front of the first video."""
        from ..cache import CarrierCache

        cache = CarrierCache(self.adapter.model.config)
        return self.open(Past(cache, Rows.none(self._axes), Keeping(self.memory), StreamPruner(config)))

    def layout(self, grid: tuple[int, int]) -> Layout:
        """Of the videos of a session, whose steps are H x W = grid."""
        if grid not in self._layouts:
            self._layouts[grid] = self.adapter.layout(self.opening, grid, self.fps, self.memory.carriers)
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
        ids = self._behind(past.turns, lambda turns: self._pieces(turns, "")[-2])
        first = past.position
        self.read_text(past.cache, ids, first)
        past = self.noted(past, len(ids))
        return replace(past, cursor=Cursor(first + len(ids)), tail=())

    def question(self, past: Past, question: str) -> torch.Tensor:
        """(L,) ids of a question and what the template puts around it, behind what was read.

        Raises ValueError for a question that names a video itself.
        """
        if past.cursor is None:
            content = [{"type": "text", "text": question}]
            return self._behind(past.turns, lambda turns: self.adapter.text(self._messages(turns, content))[-1])
        pieces = self._pieces(past.turns, question, answer=True)
        if not past.turns and not torch.equal(pieces[0], self.opening):
            raise ValueError("question must not change the text before the video: the chat template makes it do so")
        return pieces[-1]

    def read_text(self, cache: CarrierCache, ids: torch.Tensor, first: int) -> torch.Tensor:
        """(L, D) hidden states of text (L,) at positions from `first` on, behind all rows of the cache."""
        positions = torch.arange(first, first + len(ids)).expand(self._axes, -1)
        return self.adapter.forward(self.adapter.embed(ids), positions, cache)

    def noted(self, past: Past, count: int) -> Past:
        """The past whose cache has `count` more tokens of text than its rows say. Old turns may leave for them."""
        first, number = self.end(past), past.number
        keeping = past.keeping.copy()
        deaths = keeping.remember(number, count) if past.turns else []
        rows = past.rows.then([Rows.text(number, first, count, self._axes)]).dying(deaths, self.memory.carriers)
        blocks = {**past.blocks, number: Block(count, 0, False)}
        later = replace(past, rows=rows, keeping=keeping, blocks=blocks, number=number + 1, cursor=None)
        later = replace(later, position=first + count, top=max(past.top, first + count))
        return self._evicted(later, 2 * number + 2)

    def end(self, past: Past) -> int:
        """The position of the next token of text."""
        if past.cursor is None:
            return past.position
        return past.cursor.start if past.grid is None else self.layout(past.grid).end(past.cursor)

    def remembered(self, past: Past, cache: CarrierCache, question: str, ids: Sequence[int], answer: str) -> Past:
        """With a turn of the dialogue whose text, question and answer, is in the cache behind the past as `ids`."""
        content = [{"type": "text", "text": question}]
        if past.cursor is not None:
            content.insert(0, {"type": "video"})
        turns = (*past.turns, {"role": "user", "content": content}, {"role": "assistant", "content": answer})
        count = cache.get_seq_length() - len(past.rows)
        later = self.noted(replace(past, cache=cache, turns=turns), count)
        # Only the newest turns are asked for again, and only a bounded number can still be in the cache.
        turns, most = turns[-2 * max(1, len(later.keeping.dialogue)) :], max(1, self.memory.max_dialogue)
        return self.compact(replace(later, turns=turns, tail=(*past.tail, *ids)[-most:]))

    def _pieces(self, turns: Turns, question: str, answer: bool = False) -> list[torch.Tensor]:
        content = [{"type": "video"}, {"type": "text", "text": question}]
        return self.adapter.text(self._messages(turns, content), answer)

    def _messages(self, turns: Turns, content: list[dict[str, str]]) -> list[dict[str, Any]]:
        return [*self._system, *turns, {"role": "user", "content": content}]

    @staticmethod
    def _behind(turns: Turns, ids: Callable[[Sequence[dict[str, Any]]], torch.Tensor]) -> torch.Tensor:
        """(L,) what the template puts behind the last answer: where texts with two other answers in its place agree.

        So what a template does to earlier turns does not matter: they are in the cache as they were read.
        """
        if not turns:
            return ids(turns)
        a, b = (ids([*turns[:-1], {**turns[-1], "content": letter}]).flip(0) for letter in "xy")
        length = min(len(a), len(b))
        same = int((a[:length] == b[:length]).int().cumprod(0).sum())
        return a[:same].flip(0)

    # Steps

    def read_steps(self, past: Past, plan: Plan) -> Past:
        """The past with the steps of a plan read; they see each other as the memory's rules have it."""
        rounds = list(_rounds([len(reading.rows) for reading in plan.readings], 1 if self._one_by_one else ROWS))
        now = replace(past, blocks=plan.past.blocks)
        if len(rounds) > 1:  # rows are evicted on the way, which a failure could not bring back
            now = replace(now, cache=past.cache.fork())
        for part in rounds:
            now = self._read([now], [Plan(plan.readings[part], plan.deaths[part], now)])[0]
        return self._done(plan, now)

    def read_many(self, pasts: list[Past], plans: list[Plan]) -> list[Past]:
        """`read_steps` of several streams in one forward, where they are short enough for that."""
        sizes = [sum(len(reading.rows) for reading in plan.readings) for plan in plans]
        if self._one_by_one or sum(sizes) > ROWS or len(pasts) == 1:
            return [self.read_steps(past, plan) for past, plan in zip(pasts, plans, strict=True)]
        opened = [replace(past, blocks=plan.past.blocks) for past, plan in zip(pasts, plans, strict=True)]
        read = self._read(opened, plans)
        every = zip(plans, read, strict=True)
        return [
            self.compact(replace(plan.past, cache=now.cache, rows=now.rows, blocks=now.blocks)) for plan, now in every
        ]

    def _done(self, plan: Plan, now: Past) -> Past:
        return self.compact(replace(plan.past, cache=now.cache, rows=now.rows, blocks=now.blocks))

    def _read(self, pasts: list[Past], plans: list[Plan]) -> list[Past]:
        """With the plans' rows read, in one forward, and without the rows that nothing sees any more."""
        jobs = [self._job(past, plan) for past, plan in zip(pasts, plans, strict=True)]
        lengths = [len(job.past.rows) for job in jobs]
        if sum(job.new for job in jobs):
            try:
                self._forward(jobs)
            except BaseException:
                for job, length in zip(jobs, lengths, strict=True):
                    job.past.cache.truncate(length)
                raise
        return [self._evicted(replace(job.past, rows=job.rows), 2 * job.number + 2) for job in jobs]

    def _job(self, past: Past, plan: Plan) -> _Job:
        deaths = [death for each in plan.deaths for death in each]
        number = plan.readings[-1].number
        if self._one_by_one:
            past = self._evicted(replace(past, rows=past.rows.dying(deaths, self.memory.carriers)), 2 * number)
        new = Rows.none(self._axes).then([reading.rows for reading in plan.readings])
        rows = past.rows.then([new]).dying(deaths, self.memory.carriers)
        return _Job(past, plan.readings, rows, len(new), number)

    def _forward(self, jobs: list[_Job]) -> None:
        readings = [reading for job in jobs for reading in job.readings]
        embeds = torch.cat([reading.embeds for reading in readings])
        positions = torch.cat([torch.from_numpy(reading.rows.position) for reading in readings], 1)
        cache: Any
        if len(jobs) == 1:
            cache, mask = jobs[0].past.cache, jobs[0].rows.seen(jobs[0].new)
        else:
            from ..cache import PackedCache

            cache = PackedCache([job.past.cache for job in jobs], [job.new for job in jobs])
            mask = torch.block_diag(*(job.rows.sight(job.new) for job in jobs))
        self.adapter.forward(embeds, positions, cache, mask, _stacked(readings))

    def _evicted(self, past: Past, time: int) -> Past:
        """Without the rows that nothing sees from this time on."""
        dead = past.rows.dead(time)
        if not len(dead):
            return past
        rows = past.rows.take(past.cache.drop(dead))
        live = set(rows.block.tolist())
        return replace(past, rows=rows, blocks={n: block for n, block in past.blocks.items() if n in live})

    def skipped(self, past: Past, steps: int) -> Past:
        """Behind steps that never came."""
        cursor = past.cursor
        if cursor is not None:
            cursor = self.layout(past.grid or (1, 1)).skip(cursor, steps)
        return replace(past, steps=past.steps + steps, cursor=cursor)

    # Positions

    def compact(self, past: Past) -> Past:
        """With positions closed up where they come near the model's limit, if the memory has it so."""
        if self.memory.positions != "compact" or past.grid is None:
            return past
        if past.top <= self._most:
            return past
        layout = self.layout(past.grid)
        return compacted(self._fitting(past, layout, self._most), layout, self._rotary)

    def before_compaction(self, past: Past, grid: tuple[int, int], steps: int) -> int:
        """How many of the next steps can be read before positions are to be closed up, that step included."""
        if self.memory.positions != "compact":
            return steps
        layout, cursor = self.layout(grid), past.cursor
        assert cursor is not None
        for n in range(steps):
            before, behind = (len(text) for text in self.adapter.around(past.steps + n, self.fps))
            place = layout.place(cursor, before, behind)
            cursor = place.next
            if max(int(place.positions.max()) + 1, layout.end(cursor)) > self._most:
                return n + 1
        return steps

    @property
    def _most(self) -> int:
        """The first position of the room that is left for a question, its answer and the next step."""
        limit = self.adapter.model.config.get_text_config().max_position_embeddings
        return limit - limit // 8

    def _fitting(self, past: Past, layout: Layout, most: int) -> Past:
        """Without the oldest, where even closed up it would reach beyond position `most`."""
        while relaid(past, layout).top > most:
            keeping = past.keeping.copy()
            deaths = keeping.forget_oldest(2 * past.number)
            if not deaths:
                break
            rows = past.rows.dying(deaths, self.memory.carriers)
            past = self._evicted(replace(past, keeping=keeping, rows=rows), 2 * past.number)
        return past

    @cached_property
    def _rotary(self) -> Rotary:
        from ..cache import Rotary

        return Rotary.of(self.adapter.language_model)


class _Job(NamedTuple):
    """What one stream has to read."""

    past: Past
    readings: list[Reading]
    rows: Rows  # the new ones included
    new: int
    number: int  # of the last step


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


def _stacked(readings: list[Reading]) -> DeepStack | None:
    """The DeepStack rows of several steps."""
    every = [(len(reading.rows), reading.deepstack) for reading in readings]
    found = [stack for _, stack in every if stack is not None]
    if not found:
        return None
    at = torch.cat([torch.zeros(count, dtype=torch.bool) if stack is None else stack.at for count, stack in every])
    return DeepStack(at, tuple(torch.cat(levels) for levels in zip(*(stack.levels for stack in found), strict=True)))
