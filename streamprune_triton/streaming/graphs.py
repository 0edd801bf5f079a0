"""A stream's steps and answers in fixed shapes, as CUDA graphs: one launch in place of a launch for every operator.

A step of a few dozen tokens costs an eager language model more in launches than in arithmetic, and the vision tower as
well; a token of an answer the more so. They are the same each time but for their numbers, so they are captured when a
shape is first seen, and replayed from then on. The pruner runs between the two as it is, since what it keeps decides
the second shape.
"""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..models.base import Adapter, DeepStack, Features
from ..transfer import upload

if TYPE_CHECKING:
    from ..cache import CarrierCache

SIZES = (16, 32, 64, 128, 256, 512)  # rows of a forward, padded to one of these; longer ones are read as they are
# One capture at a time: it begins with a wait for the device, which another's forbids, and torch refuses to draw random
# numbers on the device meanwhile.
capturing = threading.Lock()
SHAPES = 4  # of frames that are captured; further ones run as they are


class Replay:
    """A function of tensors on fixed memory: captured on a CUDA device, elsewhere called each time.

    Args:
        work: from tensors to a tensor or a tuple of tensors; it must not wait for the device.
        like: tensors of the shapes, dtypes and device of its arguments, with values that it can be tried on.
    """

    def __init__(self, work: Callable[..., Any], like: tuple[torch.Tensor, ...]) -> None:
        with torch.inference_mode(False), torch.no_grad():  # else they could not be written outside of that mode
            self._work, self._inputs = work, tuple(each.clone() for each in like)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._output: Any = None
        if like[0].is_cuda:
            self._capture()

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """The function's value. It lies in memory that the next call overwrites."""
        for own, new in zip(self._inputs, inputs, strict=True):
            own.copy_(new, non_blocking=True)
        if self._graph is None:
            return self._work(*self._inputs)
        self._graph.replay()
        return self._output

    def _capture(self) -> None:
        """After a trial on a stream of its own, in which libraries set themselves up."""
        here = torch.cuda.current_stream(self._inputs[0].device)
        aside = torch.cuda.Stream(here.device)
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(2):
                self._work(*self._inputs)
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with capture(graph, aside):
            self._output = self._work(*self._inputs)
        self._graph = graph


@contextmanager
def capture(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> Iterator[None]:
    """`torch.cuda.graph` beside other threads: one at a time, and one that fails leaves nothing behind."""
    here, pool = torch.cuda.current_stream(stream.device), torch.cuda.graph_pool_handle()
    with capturing, _uncollected():
        try:
            with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
                yield
        except RuntimeError:
            _recover(here, pool)
            raise


def _recover(here: torch.cuda.Stream, pool: Any) -> None:
    """What torch leaves undone where a capture fails: its stream stays the current one, memory is still taken from its
    pool, and the random numbers' state, which a capture that succeeds gives back, is still the capture's."""
    torch.cuda.set_stream(here)
    with suppress(RuntimeError):
        torch._C._cuda_endAllocateToPool(here.device_index, pool)
    aside = torch.cuda.Stream(here.device)
    with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=aside, capture_error_mode="thread_local"):
        torch.zeros((), device=here.device)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Inside it, no garbage is collected: a graph might be, and torch destroys one by a call that ends a capture."""
    enabled = gc.isenabled()
    try:
        gc.disable()
        yield
    finally:
        if enabled:
            gc.enable()


class Graphs:
    """Of one session, since its memory is part of what is captured. Threads take turns: an answer may be read in one
    while frames are appended in another.

    Args:
        adapter: of the model.
    """

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._towers: dict[Any, Replay] = {}
        self._forwards: dict[tuple[int, int], Replay] = {}  # by the number of rows, and of arguments
        self._memory: torch.Tensor | None = None
        self._refused: set[str] = set()
        self._turn = threading.Lock()

    def features(self, pixels: Any) -> Features:
        """As `Adapter.features`."""
        parts = pixels if isinstance(pixels, tuple) else (pixels,)
        key = tuple((tuple(each.shape), () if _moves(each) else tuple(each.flatten().tolist())) for each in parts)
        with self._turn:
            if key not in self._towers and ("tower" in self._refused or len(self._towers) == SHAPES):
                return self._adapter.features(pixels)
            inputs = tuple(upload(each, self._adapter.model.device) for each in parts if _moves(each))
            if key not in self._towers:
                self._capture(self._towers, key, partial(_tower, self._adapter, pixels), inputs, "tower")
            if key not in self._towers:
                return self._adapter.features(pixels)
            found: Features = self._towers[key](*inputs)
            return Features(found.x.clone(), tuple(level.clone() for level in found.levels))

    def step(
        self,
        cache: CarrierCache,
        embeds: torch.Tensor,
        positions: torch.Tensor,
        sight: torch.Tensor,
        deepstack: DeepStack | None,
    ) -> bool:
        """Reads a step into a cache that holds other rows, as `Adapter.forward` does; its output is not wanted.

        Args:
            cache: with at least one row.
            embeds: (L, D).
            positions: (A, L).
            sight: (L, cached + L) bool, which rows each sees.
            deepstack: of the rows.

        Returns:
            Whether it was done: not where there are too many rows, or where capturing has failed.
        """
        with self._turn:
            return self._read(cache, embeds, positions, sight, deepstack, True) is not None

    def text(self, cache: CarrierCache, embeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor | None:
        """Reads text behind all rows of a cache.

        Returns:
            (L, D) hidden states; None where it was not done, as `step`, or because the cache has gone to other memory
            than the session's, as an answer's does when frames come meanwhile: not worth a capture.
        """
        count, held = len(embeds), cache.get_seq_length()
        sight = torch.ones(count, held + count, dtype=torch.bool).tril(held)
        with self._turn:
            hidden = self._read(cache, embeds, positions, sight, None, self._memory is None)
            return None if hidden is None else hidden.clone()

    def _read(
        self,
        cache: CarrierCache,
        embeds: torch.Tensor,
        positions: torch.Tensor,
        sight: torch.Tensor,
        deepstack: DeepStack | None,
        anywhere: bool,
    ) -> torch.Tensor | None:
        """(L, D) hidden states, good until the next call. `anywhere`: also in memory that is new here."""
        count, held = len(embeds), sight.shape[1] - len(embeds)
        size = next((size for size in SIZES if size >= count), None)
        if size is None or not held or "language model" in self._refused:
            return None
        found = None
        kv = cache.claim(size)
        try:
            if anywhere or kv is self._memory:
                rows = self._padded(size, kv, held, embeds, positions, sight)
                found = self._replay(kv, (*rows, *(deepstack.spread(size) if deepstack else ())))
        finally:
            cache.truncate(held if found is None else held + count)
        return None if found is None else found[:count]

    def _replay(self, kv: torch.Tensor, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor | None:
        if kv is not self._memory:
            self._forwards, self._memory = {}, kv
        key = (len(inputs[0]), len(inputs))
        if key not in self._forwards:
            self._capture(self._forwards, key, partial(_forward, self._adapter, kv), inputs, "language model")
        return self._forwards[key](*inputs) if key in self._forwards else None

    def _capture(
        self, where: dict[Any, Replay], key: Any, work: Callable[..., Any], like: tuple[torch.Tensor, ...], what: str
    ) -> None:
        """Adds a replay, or, where the model does something that cannot be captured, says so once and does not."""
        try:
            where[key] = Replay(work, like)
        except RuntimeError as problem:
            self._refused.add(what)
            reason = (str(problem) or type(problem).__name__).splitlines()[0]
            warnings.warn(f"cuda_graphs: the {what} runs without, it cannot be captured: {reason}", stacklevel=2)

    def _padded(
        self,
        size: int,
        kv: torch.Tensor,
        held: int,
        embeds: torch.Tensor,
        positions: torch.Tensor,
        sight: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Rows of padding repeat the last one and see the first row alone; nothing sees them."""
        count = len(embeds)
        rows = torch.arange(size).clamp(max=count - 1)
        seen = torch.zeros(size, kv.shape[3], dtype=torch.bool)
        seen[:count, : held + count] = sight
        seen[count:, 0] = True
        at = torch.arange(held, held + size)
        rows, placed, seen, at = (upload(each, kv.device) for each in (rows, positions[:, rows], seen, at))
        return embeds[rows], placed, seen, at


# What is captured. It holds no session, so that a session takes its graphs along when nobody holds it any more.


def _tower(adapter: Adapter, pixels: Any, *own: torch.Tensor) -> Features:
    return adapter.features(_with(pixels, own))


def _forward(
    adapter: Adapter,
    kv: torch.Tensor,
    embeds: torch.Tensor,
    positions: torch.Tensor,
    sight: torch.Tensor,
    at: torch.Tensor,
    *levels: torch.Tensor,
) -> torch.Tensor:
    from ..cache import FixedCache

    every = DeepStack(torch.ones(len(embeds), dtype=torch.bool), levels) if levels else None
    return adapter.forward(embeds, positions, FixedCache(kv, at), sight, every)


def _moves(part: torch.Tensor) -> bool:
    """Whether a part of what a tower takes is pixels; the rest says what shape they have."""
    return part.is_floating_point()


def _with(pixels: Any, own: tuple[torch.Tensor, ...]) -> Any:
    """What a tower takes, with other pixels."""
    if not isinstance(pixels, tuple):
        return own[0]
    rest = iter(own)
    return tuple(next(rest) if _moves(part) else part for part in pixels)
