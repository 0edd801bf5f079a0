"""Steps in fixed shapes: the session is that without them, nothing waits for the device, what cannot be is not."""

from __future__ import annotations

import copy
import gc
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import unmodified
from streams import GREEDY, SOME, STREAMED, WHAT, Heard, answer, fed, same_past, told

from streamprune_triton import Memory, StreamingSession, models
from streamprune_triton.cache import CarrierCache, FixedCache
from streamprune_triton.models import towers
from streamprune_triton.models.base import Adapter
from streamprune_triton.streaming import graphs
from streamprune_triton.streaming.generation import Decoding
from streamprune_triton.streaming.graphs import Graphs

MEMORIES = {
    "tokens": Memory("tokens", max_tokens=60),
    "carriers": Memory("carriers", max_carriers=4),
    "compact": Memory("carriers", max_carriers=4, positions="compact"),
    "hybrid": Memory("hybrid", max_carriers=6, recent_frames=2),
}
_needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=_needs_cuda)]


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl", "llava_onevision"])
def family(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return unmodified.build(0, request.param)


@pytest.fixture(params=DEVICES)
def built(request: pytest.FixtureRequest, family: tuple[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """On the CPU, and captured on a GPU."""
    model, processor = family
    yield model.to(request.param), processor
    model.to("cpu")


def inside(session: StreamingSession) -> Graphs:
    found = session._reader._graphs
    assert found is not None
    return found


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
def test_a_session_holds_what_one_without_them_holds(built: tuple[Any, Any], memory: Memory) -> None:
    frames = unmodified.film(24)
    plain = fed(built, frames, 2, SOME, memory)
    fixed = fed(built, frames, 2, SOME, memory, cuda_graphs=True)
    assert inside(fixed)._forwards
    assert len(inside(fixed)._towers) == 1
    assert same_past(plain, fixed)
    assert plain.ask(WHAT, **GREEDY) == fixed.ask(WHAT, **GREEDY)
    assert same_past(plain, fixed), "a question left something behind"


@_needs_cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # that it is a prototype
def test_on_cuda_only_what_is_kept_is_waited_for(family: tuple[Any, Any]) -> None:
    """torch tells every other wait; `tests/device` finds them on a CPU."""
    model, processor = family
    frames = unmodified.film(24)
    try:
        session = fed((model.to("cuda"), processor), frames[:16], 2, SOME, MEMORIES["compact"], cuda_graphs=True)
        torch.cuda.set_sync_debug_mode("error")
        session.append(frames[16:18])
    finally:
        torch.cuda.set_sync_debug_mode("default")
        model.to("cpu")


@_needs_cuda
def test_on_cuda_a_capture_that_fails_leaves_nothing_behind(family: tuple[Any, Any]) -> None:
    """The stream is the one before, random numbers are drawn, what was captured is replayed, more is captured."""
    x = torch.ones(3, device="cuda")
    before, here = graphs.Replay(lambda x: x + 1, (x,)), torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        graphs.Replay(lambda x: x * x.sum().item(), (x,))
    assert torch.cuda.current_stream() == here
    assert torch.rand(3, device="cuda").isfinite().all()
    for replay in (before, graphs.Replay(lambda x: x + 1, (x,))):
        assert replay(2 * x).tolist() == [3, 3, 3]


@_needs_cuda
def test_on_cuda_a_graph_that_nobody_holds_ends_no_capture() -> None:
    """Destroyed by the garbage collector within one, it would: torch asks CUDA for what a capture forbids."""
    x, begun = torch.ones(3, device="cuda"), gc.get_threshold()
    circle: list[Any] = [graphs.Replay(lambda x: x + 1, (x,))]
    circle.append(circle)
    del circle

    def littering(x: torch.Tensor) -> torch.Tensor:
        if torch.cuda.is_current_stream_capturing():
            gc.set_threshold(1, 1, 1)
        return x + len([[n] for n in range(1000)])

    try:
        found = graphs.Replay(littering, (x,))
    finally:
        gc.set_threshold(*begun)
    assert found(x).tolist() == [1001, 1001, 1001]


def test_graphs_go_with_their_session(family: tuple[Any, Any]) -> None:
    """At once, not when garbage is collected: each holds the memory of a forward."""
    session = fed(family, unmodified.film(8), 2, SOME, MEMORIES["carriers"], cuda_graphs=True)
    held = list(map(weakref.ref, [*inside(session)._towers.values(), *inside(session)._forwards.values()]))
    gc.disable()
    try:
        del session
        assert len(held) > 1
        assert not any(each() for each in held)
    finally:
        gc.enable()


def test_inference_mode_comes_and_goes(built: tuple[Any, Any]) -> None:
    """What is captured inside of it is replayed outside, and the other way round."""
    frames = unmodified.film(16)
    plain = fed(built, frames, 2, SOME, MEMORIES["carriers"])
    fixed = StreamingSession(*built, SOME, MEMORIES["carriers"], cuda_graphs=True)
    for n in range(0, 16, 2):
        with torch.inference_mode(n % 4 == 0):
            fixed.append(frames[n : n + 2])
    assert same_past(plain, fixed)
    said = []
    for mode in (True, False):
        with torch.inference_mode(mode):
            said.append(fixed.ask(WHAT, **GREEDY))
    assert said == 2 * [plain.ask(WHAT, **GREEDY)]


def test_nobody_draws_random_numbers_during_a_capture() -> None:
    """Of another session: torch would raise."""
    drawn: list[int] = []
    sampling = Decoding.of(None, do_sample=True)
    thread = threading.Thread(target=lambda: drawn.append(sampling.choose(torch.zeros(5), torch.arange(2))))
    with graphs.capturing:
        thread.start()
        thread.join(0.2)
        assert not drawn
        Decoding.of(None).choose(torch.zeros(5), torch.arange(2))
    thread.join()
    assert len(drawn) == 1


def test_each_step_is_a_replay_of_the_first(family: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made, called = [], []
    start, call = graphs.Replay.__init__, graphs.Replay.__call__
    monkeypatch.setattr(graphs.Replay, "__init__", lambda self, *a: (made.append(self), start(self, *a))[1])
    monkeypatch.setattr(graphs.Replay, "__call__", lambda self, *a: (called.append(self), call(self, *a))[1])
    session = fed(family, unmodified.film(24), 2, SOME, MEMORIES["carriers"], cuda_graphs=True)
    assert len(called) == 24, "a tower and a step for each two frames"
    assert len(made) == 1 + len(inside(session)._forwards) <= 3


def test_what_nobody_wrote_is_finite_and_unseen(family: tuple[Any, Any]) -> None:
    """With fresh memory poisoned, padding included."""
    torch.use_deterministic_algorithms(True)
    try:
        plain, fixed = (
            fed(family, unmodified.film(16), 2, SOME, MEMORIES["hybrid"], cuda_graphs=each) for each in (False, True)
        )
    finally:
        torch.use_deterministic_algorithms(False)
    assert fixed._past.cache._rows.storage.kv.isfinite().all()
    assert same_past(plain, fixed)


def test_a_fork_and_an_answer_that_is_read_while_frames_come(built: tuple[Any, Any]) -> None:
    frames = unmodified.film(20)
    plain = fed(built, frames[:8], 2, SOME, MEMORIES["carriers"])
    fixed = fed(built, frames[:8], 2, SOME, MEMORIES["carriers"], cuda_graphs=True)
    forks = plain.fork(), fixed.fork()
    assert inside(forks[1]) is not inside(fixed)
    expected, pieces = plain.ask(WHAT, **GREEDY), fixed.stream(WHAT, **GREEDY)
    said = [next(pieces)]
    for session in (plain, fixed):
        for n in range(8, 20, 2):
            session.append(frames[n : n + 2])
    assert "".join([*said, *pieces]) == expected
    for fork in forks:
        fork.append(frames[12:16])
    assert same_past(plain, fixed)
    assert same_past(*forks)


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
def test_answers_and_dialogues_are_those_without_them(
    built: tuple[Any, Any], memory: Memory, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, call = unmodified.film(16), graphs.Replay.__call__
    plain = fed(built, frames[:12], 2, SOME, memory)
    fixed = fed(built, frames[:12], 2, SOME, memory, cuda_graphs=True)
    calls: list[int] = []
    monkeypatch.setattr(graphs.Replay, "__call__", lambda self, *a: (calls.append(len(a[0])), call(self, *a))[1])
    for remember in (False, True):
        expected = answer(plain, heard, remember=remember)
        assert torch.allclose(answer(fixed, heard, remember=remember), expected, atol=1e-4)
        assert len(calls) == len(expected) + remember, "the question, then a token each"
        calls.clear()
    for session in (plain, fixed):
        session.append(frames[12:])
    assert same_past(plain, fixed)
    assert torch.allclose(answer(fixed, heard), answer(plain, heard), atol=1e-4)


def test_a_question_of_many_words_is_read_as_it_is(family: tuple[Any, Any], heard: Heard) -> None:
    sessions = [fed(family, unmodified.film(8), 2, SOME, cuda_graphs=each) for each in (False, True)]
    question = f"{WHAT} " * 300
    expected, found = (answer(session, heard, question) for session in sessions)
    assert torch.allclose(found, expected, atol=1e-4)
    assert max(rows for rows, _ in inside(sessions[1])._forwards) < 300


def test_an_answer_in_other_memory_captures_nothing(
    family: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, heard: Heard
) -> None:
    """While frames come, the session moves on to memory of its own: the answer goes on in the old one."""
    frames, made, start = unmodified.film(12), [], graphs.Replay.__init__
    session = fed(family, frames[:8], 2, SOME, MEMORIES["carriers"], cuda_graphs=True)
    expected = answer(session, heard)
    pieces = session.stream(WHAT, **GREEDY)
    heard.clear()
    said = [next(pieces)]
    session.append(frames[8:10])
    monkeypatch.setattr(graphs.Replay, "__init__", lambda self, *a: (made.append(self), start(self, *a))[1])
    said += pieces
    assert not made
    assert torch.allclose(torch.stack(heard.logits), expected, atol=1e-4)
    session.append(frames[10:])
    assert not made, "the session's own replays are still there"


def test_threads_take_turns(family: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory that inputs are copied to is one for all of them."""
    adapter = models.adapter(family[0])(*family)
    frames, size, found = unmodified.film(4 * adapter.frames_per_step), adapter.frames_per_step, {}
    pixels = [adapter.pixels(frames[n * size : (n + 1) * size]) for n in range(4)]
    expected = [adapter.features(each).x for each in pixels]
    of, shared = adapter.features, Graphs(adapter)
    monkeypatch.setattr(adapter, "features", lambda given: (time.sleep(0.02), of(given))[1])

    def look(n: int) -> None:
        found[n] = shared.features(pixels[n]).x

    threads = [threading.Thread(target=look, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[n], expected[n]) for n in range(4))


def test_a_failed_step_leaves_the_session_as_it_was(family: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    frames = unmodified.film(12)
    plain = fed(family, frames[:8], 2, SOME, MEMORIES["carriers"])
    fixed = fed(family, frames[:8], 2, SOME, MEMORIES["carriers"], cuda_graphs=True)

    def broken(*_: Any) -> None:
        raise ValueError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(graphs.Replay, "__call__", broken)
        with pytest.raises(ValueError, match="broken"):
            fixed.append(frames[8:10])
        patch.setattr(Graphs, "features", lambda self, pixels: self._adapter.features(pixels))
        with pytest.raises(ValueError, match="broken"):
            fixed.append(frames[8:10])
    for session in (plain, fixed):
        session.append(frames[8:])
    assert same_past(plain, fixed)


def test_what_cannot_be_captured_runs_as_it_is(family: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs.Replay, "__init__", refused)
    session = StreamingSession(*family, SOME, MEMORIES["carriers"], cuda_graphs=True)
    frames = unmodified.film(12)
    with pytest.warns(UserWarning, match=r"the (tower|language model) runs without, .* stream is capturing$") as told:
        session.append(frames[:2])
    assert len(told) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in range(2, 12, 2):
            session.append(frames[n : n + 2])
    assert same_past(session, fed(family, frames, 2, SOME, MEMORIES["carriers"]))


def test_many_shapes_are_captured_up_to_a_bound(family: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    frames = unmodified.film(60)
    monkeypatch.setattr(graphs, "SIZES", (16, 32))
    plain, fixed = (StreamingSession(*family, SOME, cuda_graphs=each) for each in (False, True))
    first = 0
    for count in (2, 4, 6, 8, 10, 12):
        for session in (plain, fixed):
            session.append(frames[first : first + count])
        first += count
    assert len(inside(fixed)._towers) == graphs.SHAPES
    assert {rows for rows, _ in inside(fixed)._forwards} <= {16, 32}
    assert same_past(plain, fixed)


def test_attention_without_a_mask_is_refused(family: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family[0].config.get_text_config(), "_attn_implementation", "flash_attention_2")
    with pytest.raises(ValueError, match=r"cuda_graphs must be False where .* no mask, got 'flash_attention_2'"):
        StreamingSession(*family, SOME, cuda_graphs=True)


# On the meta device a tensor has no values, so whatever would wait for them is an error.


@pytest.fixture(scope="module", params=STREAMED)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    model, processor = unmodified.build(family=request.param)
    return models.adapter(model)(model, processor)


def without_values(adapter: Adapter) -> Adapter:
    """In bfloat16, the one dtype of experts there."""
    return type(adapter)(copy.deepcopy(adapter.model).to("meta", torch.bfloat16), adapter.processor)


def test_a_tower_waits_for_nothing(adapter: Adapter) -> None:
    pixels = adapter.pixels(unmodified.film(adapter.frames_per_step))
    parts = pixels if isinstance(pixels, tuple) else (pixels,)
    if not told(adapter):
        pytest.skip("this release's tower of the family asks the device where its windows end")
    own = tuple(each.to("meta") for each in parts if each.is_floating_point())
    found = without_values(adapter).features(graphs._with(pixels, own))
    expected = adapter.features(pixels)
    assert found.x.shape == expected.x.shape
    assert [level.shape for level in found.levels] == [level.shape for level in expected.levels]


def test_a_step_waits_for_nothing(adapter: Adapter) -> None:
    levels = len(adapter.features(adapter.pixels(unmodified.film(adapter.frames_per_step))).levels)
    bare = without_values(adapter)
    if towers._utils() is None:
        pytest.skip("this release's rotary positions do not know the meta device")
    cache, size, width = CarrierCache(bare.model.config), 16, bare.language_model.config.hidden_size
    axes = StreamingSession(adapter.model, adapter.processor)._reader.axes
    rows = [torch.empty(size, width, dtype=torch.bfloat16, device="meta") for _ in range(1 + levels)]
    bare.forward(rows[0][:3], torch.arange(3).expand(axes, -1), cache)
    kv = cache.claim(size)
    sight = torch.ones(size, kv.shape[3], dtype=torch.bool, device="meta")
    at = torch.arange(3, 3 + size, device="meta")
    found = graphs._forward(bare, kv, rows[0], at.expand(axes, -1), sight, at, *rows[1:])
    assert found.shape == (size, width)


def test_what_a_tower_derives_from_a_grid_changes_no_bit(adapter: Adapter) -> None:
    pixels = adapter.pixels(unmodified.film(2 * adapter.frames_per_step))
    if not isinstance(pixels, tuple) or not told(adapter):
        pytest.skip("the family's tower, or this release's, derives it itself")
    found = adapter.features(pixels)
    adapter._derived = {tuple(pixels[1].flatten().tolist()): {}}
    plain = adapter.features(pixels)
    assert torch.equal(found.x, plain.x)
    assert all(torch.equal(a, b) for a, b in zip(found.levels, plain.levels, strict=True))


def test_a_fixed_cache_reads_and_writes_the_memory_it_is_given() -> None:
    kv = torch.arange(2 * 2 * 1 * 5 * 2, dtype=torch.float32).reshape(2, 2, 1, 5, 2)
    before = kv.clone()
    cache = FixedCache(kv, torch.tensor([3, 1]))
    new = -torch.ones(1, 1, 2, 2)
    keys, values = cache.update(new, 2 * new, 1)
    assert (keys.shape, values.shape) == ((1, 1, 5, 2), (1, 1, 5, 2))
    assert keys.data_ptr() == kv[1, 0].data_ptr()
    before[1, 0, :, [1, 3]], before[1, 1, :, [1, 3]] = -1, -2
    assert torch.equal(kv, before)
    assert cache.get_mask_sizes(2, 0) == (5, 0)
    assert np.array_equal(values[0], kv[1, 1])
