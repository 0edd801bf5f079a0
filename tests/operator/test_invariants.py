"""The invariants of the specification: chunks and batches, neighbours, order, repetition, size of the state."""

from __future__ import annotations

import os
from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from features import INTERPRETED, LAYOUTS, depths, examples, features, field, grids, laid_out, options, spoil
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import prune as oracle_prune
from tolerances import COSINE, MARGIN, assert_bits, assert_same_state, bits, padded, same_bits

import streamprune_triton as sp

MASKS = ("checkerboard", "checkerboard_even", "alternate")


def assert_joined(parts: list[sp.PruneResult], whole: sp.PruneResult) -> None:
    """Fails unless the results of consecutive chunks, put together, are those of one call, bit for bit."""
    for name in ("keep", "counts", "temporal", "spatial", "tokens"):
        assert_bits(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name), name)
    if whole.carriers is not None:
        assert_bits(torch.cat([part.carriers for part in parts]), whole.carriers, "carriers")
    shift, indices = 0, []
    for part in parts:
        indices += [index + shift for index in part.indices.tolist()]
        shift += part.keep.numel()
    assert indices == whole.indices.tolist()
    assert [0, *accumulate(n for part in parts for n in part.counts.tolist())] == whole.cu_counts.tolist()
    for part in parts:
        assert part.cu_counts.tolist() == [0, *accumulate(part.counts.tolist())]
    assert sum(int(part.nonfinite) for part in parts) == int(whole.nonfinite)
    assert_same_state(parts[-1].state, whole.state)


def pruned_in_chunks(x: torch.Tensor, config: sp.PruneConfig, cuts: list[int], backend: str) -> list[sp.PruneResult]:
    """Prunes x in the chunks between the given frames."""
    state, parts = None, []
    for start, stop in pairwise([0, *sorted(cuts), len(x)]):
        parts.append(sp.prune(x[start:stop], config, state=state, backend=backend))
        state = parts[-1].state
    return parts


@st.composite
def streams(draw: st.DrawFn, frames: tuple[int, int] = (1, 6)) -> tuple[torch.Tensor, dict[str, Any], list[int]]:
    """Tokens, options that do not look at the whole call, and frames to cut at (repeated ones give empty chunks)."""
    grid, depth = draw(grids()), draw(depths())
    x = draw(features(grid, depth, frames=frames))
    chosen = draw(options(*grid, clip=False))
    cuts = draw(st.lists(st.integers(0, len(x)), max_size=4))
    return x, chosen, cuts


@given(drawn=streams())
@settings(max_examples=examples(120))
def test_any_cut_of_a_stream(backend: str, device: torch.device, drawn: tuple) -> None:
    """Invariant 1, chunks."""
    x, chosen, cuts = drawn
    x, config = x.to(device), sp.PruneConfig(**chosen)
    assert_joined(pruned_in_chunks(x, config, cuts, backend), sp.prune(x, config, backend=backend))


CUT_SHAPES = [(9, 24, 26, 64), (5, 9, 17, 257), (6, 40, 40, 1), (33, 1, 1, 3584), (3, 1, 1, 40000), (2, 20, 20, 1024)]
CUT_SHAPES = [(4, 3, 2, 7)] if INTERPRETED else CUT_SHAPES


@pytest.mark.parametrize("shape", CUT_SHAPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "width_first", "features_first", "time_last", "unaligned"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_cut_of_a_long_stream(
    backend: str, device: torch.device, shape: tuple[int, ...], layout: str, dtype: torch.dtype
) -> None:
    """Invariant 1 at sizes where sums are split into blocks: every frame alone is as good as all of them at once.

    On two threads, as a sum that is shared out among threads must not be shared out by the number of frames.
    """
    x = field(shape, redundancy=0.5, seed=1, dtype=dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for carrier in ("all", "kept"):
            config = sp.PruneConfig(carrier=carrier, temporal_threshold=0.5)
            whole = sp.prune(laid_out(x, layout).to(device), config, backend=backend)
            single, state = [], None
            for frame in x.split(1):
                single.append(sp.prune(laid_out(frame, layout).to(device), config, state=state, backend=backend))
                state = single[-1].state
            assert_joined(single, whole)
    finally:
        torch.set_num_threads(threads)


def test_a_carrier_of_one_number_is_that_of_any_cut() -> None:
    """A sum that is all there is to compute is shared out among threads where it is long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for seed in range(20):
            x = torch.randn(2, 1, 40000, 1, generator=torch.Generator().manual_seed(seed))
            alone = [sp.prune(frame, backend="torch").carriers for frame in x.split(1)]
            assert_bits(torch.cat(alone), sp.prune(x, backend="torch").carriers, "carriers")
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(INTERPRETED, reason="too large for the interpreter")
@pytest.mark.parametrize("reference", ["previous", "last_kept"])
def test_a_call_of_many_blocks(backend: str, device: torch.device, reference: str) -> None:
    """Invariant 1 where one call is more than the reference computes at a time: 5.2 million features."""
    x = field((2, 16, 20, 2048), redundancy=0.5, seed=2).repeat(4, 1, 1, 1)
    x[3:] += 0.7 * x.flip(1)[3:]
    x = x.to(device)
    config = sp.PruneConfig(reference=reference, temporal_threshold=0.5, carrier="kept")
    whole = sp.prune(x, config, backend=backend)
    assert 0.1 < whole.drop_ratio < 0.9
    assert_joined(pruned_in_chunks(x, config, [1, 2, 3, 4, 5, 6, 7], backend), whole)
    assert_joined(pruned_in_chunks(x, config, [3], backend), whole)


@given(
    data=st.data(),
    grid=grids(large=False),
    depth=depths(),
    layouts=st.lists(st.sampled_from([name for name in LAYOUTS if "expanded" not in name]), min_size=2, max_size=2),
)
@settings(max_examples=examples(100))
def test_layout_does_not_matter(
    backend: str, device: torch.device, data: st.DataObject, grid: tuple[int, int], depth: int, layouts: list[str]
) -> None:
    """Invariant 1: the order of a sum may depend on H, W, D and dtype, so not on how the memory is laid out."""
    x = data.draw(features(grid, depth, frames=(1, 3))).to(device)
    config = sp.PruneConfig(**data.draw(options(*grid)))
    first, second = (sp.prune(laid_out(x, layout), config, backend=backend) for layout in layouts)
    assert_joined([first], second)


@given(data=st.data(), depth=depths(), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
@settings(max_examples=examples(60))
def test_any_batch(backend: str, device: torch.device, data: st.DataObject, depth: int, dtype: torch.dtype) -> None:
    """Invariant 1, batches: streams of any T, H and W in one call, at any point of their streams, in any order."""
    chosen = data.draw(options(3, 3))  # the budgets are what matters here, not the mask
    if isinstance(chosen["mask"], torch.Tensor):
        chosen["mask"] = "all"
    config = sp.PruneConfig(**chosen)
    count = data.draw(st.integers(1, 4))
    xs, states = [], []
    for _ in range(count):
        grid = data.draw(grids(large=False))
        x = data.draw(features(grid, depth, frames=(0, 4))).to(dtype).to(device)
        begun = data.draw(st.booleans())
        before = field((2, *grid, depth), redundancy=0.6, seed=3, dtype=dtype).to(device)
        states.append(sp.prune(before, config, backend=backend).state if begun else None)
        xs.append(x)
    alone = [sp.prune(x, config, state=state, backend=backend) for x, state in zip(xs, states, strict=True)]
    together = sp.prune(xs, config, state=states, backend=backend)
    assert len(together) == count
    for one, other in zip(alone, together, strict=True):
        assert_joined([other], one)
        assert_bits(other.indices, one.indices, "indices")
    order = data.draw(st.permutations(range(count)))
    shuffled = sp.prune([xs[b] for b in order], config, state=[states[b] for b in order], backend=backend)
    for b, other in zip(order, shuffled, strict=True):
        assert_joined([other], alone[b])


@given(data=st.data(), grid=grids(), depth=depths(), mask=st.sampled_from(MASKS))
@settings(max_examples=examples(60))
def test_no_two_dropped_candidates_are_neighbours(
    backend: str, device: torch.device, data: st.DataObject, grid: tuple[int, int], depth: int, mask: str
) -> None:
    """Invariant 2: what is dropped in space under a checkerboard touches nothing else that is."""
    x = data.draw(features(grid, depth)).to(device)
    config = sp.PruneConfig(
        temporal_threshold=None,
        spatial_threshold=data.draw(st.sampled_from([-1.0, -0.5, 0.0, 0.5])),
        mask=mask,
        neighbors=data.draw(st.sampled_from(["grid", "survivors"])),
    )
    result = sp.prune(x, config, backend=backend)
    dropped = ~result.keep & x.isfinite().all(-1)
    assert not (dropped[:, 1:] & dropped[:, :-1]).any()
    assert not (dropped[:, :, 1:] & dropped[:, :, :-1]).any()


@pytest.mark.parametrize("mask", MASKS)
def test_all_candidates_may_go(backend: str, device: torch.device, mask: str) -> None:
    """Invariant 2 is no accident of keeping everything: of equal tokens exactly the candidates are dropped."""
    x = torch.ones(2, 4, 5, 8, device=device)
    result = sp.prune(x, sp.PruneConfig(temporal_threshold=None, mask=mask), backend=backend)
    expected = {"checkerboard": [10, 10], "checkerboard_even": [10, 10], "alternate": [10, 10]}[mask]
    assert (20 - result.counts).tolist() == expected
    parity = {"checkerboard": (1, 1), "checkerboard_even": (0, 0), "alternate": (1, 0)}[mask]
    for n in range(2):
        assert all((i + j) % 2 == parity[n] for i, j in (~result.keep[n]).nonzero().tolist())


@given(drawn=streams((0, 4)), layout=st.sampled_from(LAYOUTS))
@settings(max_examples=examples(100))
def test_kept_tokens_are_copies_in_order(backend: str, device: torch.device, drawn: tuple, layout: str) -> None:
    """Invariant 3, without the oracle: indices rise, point at what is kept, and tokens are those of the input."""
    x, chosen, _ = drawn
    if chosen["temporal_threshold"] == -1.0:
        chosen["temporal_threshold"] = 0.9
    x = laid_out(x.to(device), layout)
    result = sp.prune(x, sp.PruneConfig(**chosen), backend=backend)
    indices = result.indices.tolist()
    assert all(a < b for a, b in pairwise(indices))
    assert indices == result.keep.flatten().nonzero().flatten().tolist()
    assert result.counts.tolist() == result.keep.flatten(1).sum(1).tolist()
    assert result.cu_counts.tolist() == [0, *result.counts.cumsum(0).tolist()]
    flat = x.detach().cpu().contiguous().view(-1, x.shape[-1])
    assert torch.equal(bits(result.tokens), bits(flat[result.indices.cpu()]))


def test_signed_zeros_are_copied_too(backend: str, device: torch.device) -> None:
    """Invariant 3: a bit-copy, not an equal number."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.tensor([0.0, -0.0, torch.finfo(dtype).tiny / 4, -1.0], dtype=dtype).view(1, 1, 1, 4).to(device)
        result = sp.prune(x, sp.PruneConfig(), backend=backend)
        assert torch.equal(bits(result.tokens), bits(x.view(1, 4)))


@given(drawn=streams())
@settings(max_examples=examples(40))
def test_same_input_same_answer(backend: str, device: torch.device, drawn: tuple) -> None:
    """Invariant 4, run to run, with an unrelated call between the two; the input is not written to."""
    x, chosen, _ = drawn
    x, config = x.to(device), sp.PruneConfig(**chosen)
    before = x.clone()
    first = sp.prune(x, config, backend=backend)
    first_state = first.state.clone()
    first.tokens  # noqa: B018 (cuts them now)
    sp.prune(-x.flip(0), config, state=first.state, backend=backend)
    second = sp.prune(x, config, backend=backend)
    assert_joined([first], second)
    assert_same_state(first_state, first.state)
    assert_bits(x, before, "x")


@given(drawn=streams())
@settings(max_examples=examples(100))
def test_backends_agree(backend: str, device: torch.device, drawn: tuple) -> None:
    """Invariant 4: whatever runs here, against the reference on the CPU, wherever no decision is a close call."""
    if backend == "torch":
        pytest.skip("the reference is what is compared with")
    x, chosen, _ = drawn
    config = sp.PruneConfig(**chosen)
    here, there = sp.prune(x.to(device), config, backend=backend), sp.prune(x, config, backend="torch")
    expected = oracle_prune(x, **chosen)
    if expected.margin <= MARGIN or expected.tied:
        return
    assert torch.equal(here.keep.cpu(), there.keep)
    for name in ("temporal", "spatial"):
        torch.testing.assert_close(
            getattr(here, name).cpu(), getattr(there, name), rtol=0, atol=COSINE, equal_nan=True, msg=name
        )


def test_triton_is_not_the_reference(backend: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend "triton" computes by its kernels, "torch" by the reference: each works without the other."""
    from streamprune_triton.reference import step

    def unexpected(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the reference was called")

    monkeypatch.setattr(step, "score", unexpected)
    x = field((2, 2, 2, 8)).to(device)
    if backend == "torch":
        with pytest.raises(RuntimeError, match="the reference was called"):
            sp.prune(x, backend=backend)
    else:
        assert sp.prune(x, backend=backend).tokens.shape[1] == 8


def stored(state: sp.StreamState) -> int:
    """Bytes that a state keeps alive."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state.state_dict().values()}
    return sum(storages.values())


@pytest.mark.parametrize("reference", ["previous", "last_kept"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_state_has_one_size(backend: str, device: torch.device, reference: str, dtype: torch.dtype) -> None:
    """Invariant 5: a reference frame and a few counters, after one frame as after many, in small and large chunks."""
    height, width, depth = 3, 4, 16
    pruner = sp.StreamPruner(sp.PruneConfig(reference=reference, keyframe_interval=4), backend=backend)
    limit = height * width * (depth * dtype.itemsize + 4) + 64
    x = field((12, height, width, depth), redundancy=0.6, dtype=dtype).to(device)
    for size in (1, 1, 2, 3) if INTERPRETED else (1, 1, 12, 3, 12, 1, 7):
        pruner(x[:size])
        assert pruner.state is not None
        assert stored(pruner.state) <= limit
        assert set(pruner.state_dict()) == {"reference", "squared_norms", "frames"}
        assert pruner.state.reference.shape == (height, width, depth)


@pytest.mark.parametrize("streams", [2, 5])
def test_state_of_a_batch_has_one_size(backend: str, device: torch.device, streams: int) -> None:
    """Invariant 5 in a batch: the state of one stream does not keep those of the others alive."""
    xs = [field((3, 3, 4, 16), seed=seed).to(device) for seed in range(streams)]
    for result in sp.prune(xs, backend=backend):
        assert stored(result.state) <= 3 * 4 * (16 * 4 + 4) + 64


@pytest.mark.parametrize("reference", ["previous", "last_kept"])
@pytest.mark.parametrize("seed", range(2 if INTERPRETED else 5))
def test_a_stream_in_many_calls(backend: str, device: torch.device, reference: str, seed: int) -> None:
    """A StreamPruner over single frames, with spoilt ones among them, is one call over all."""
    x = spoil(field((7, 3, 3, 8), redundancy=0.7, seed=seed), ["nan", "zeros", "copied"], seed).to(device)
    config = sp.PruneConfig(reference=reference, mask="alternate", keyframe_interval=3, temporal_threshold=0.6)
    pruner = sp.StreamPruner(config, backend=backend)
    parts = [pruner(x[n : n + 1]) for n in range(3)] + [pruner(x[3:3]), pruner(x[3:6]), pruner(x[6:])]
    assert_joined(parts, sp.prune(x, config, backend=backend))
    assert pruner.state is not None
    assert int(pruner.state.frames) == 7


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # that it is a prototype
@pytest.mark.parametrize("reference", ["previous", "last_kept"])
@pytest.mark.parametrize("budget", [{}, {"keep_tokens": 4}, {"max_tokens": 4}], ids=str)
def test_nothing_waits_for_the_host(backend: str, device: torch.device, reference: str, budget: dict) -> None:
    """Invariant 6: prune and prune_padded queue their work and return."""
    if backend == "torch":
        pytest.skip("the reference may wait")
    x = field((3, 4, 4, 64), dtype=torch.bfloat16).to(device)
    config = sp.PruneConfig(reference=reference, **budget)
    state = sp.prune(x, config, backend=backend).state
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = sp.prune(x, config, state=state, backend=backend)
        padded(x, config, backend=backend, capacity=20, state=state)
        repr(result)
        with pytest.raises(RuntimeError):
            result.tokens  # noqa: B018
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    assert result.tokens.shape[0] == int(result.cu_counts[-1])


def test_offsets_beyond_32_bits(backend: str, device: torch.device) -> None:
    """Tokens that lie more than 2^31 elements apart, in memory of which only a few pages are touched."""
    far = 2**31 + 64
    if device.type == "cpu" and os.name != "posix":
        pytest.skip("needs memory that is only touched where it is used")
    try:
        space = torch.empty(2 * far + 512, dtype=torch.bfloat16, device=device)
    except RuntimeError:
        pytest.skip("needs 9 GB of address space")
    x = space.as_strided((3, 2, 2, 16), (far, 64, 16, 1))
    near = field((3, 2, 2, 16), redundancy=0.5, dtype=torch.bfloat16).to(device)
    x.copy_(near)
    config = sp.PruneConfig(temporal_threshold=0.5, carrier="kept")
    assert_joined([sp.prune(x, config, backend=backend)], sp.prune(near, config, backend=backend))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_more_features_than_32_bits_count(backend: str, device: torch.device) -> None:
    """As above, in memory that is contiguous, which nobody copies, and of as many kept tokens: 9 GB."""
    if backend == "torch":
        pytest.skip("the reference leaves offsets to PyTorch")
    part = field((16, 16, 16, 3584), dtype=torch.bfloat16).to(device)
    x = part.repeat(2**31 // part.numel() + 1, 1, 1, 1)
    config, cut = sp.PruneConfig(temporal_threshold=None, spatial_threshold=None), len(x) - 20
    whole, before = (sp.prune(each, config, backend=backend) for each in (x, x[cut - 1 : cut]))
    last = sp.prune(x[cut:], config, state=before.state, backend=backend)
    assert torch.equal(whole.tokens, x.flatten(0, 2))
    for name in ("carriers", "temporal", "spatial"):
        assert torch.equal(getattr(whole, name)[cut:], getattr(last, name)), name


def test_comparisons_see_a_single_bit() -> None:
    """The helper behind these tests tells 0.0 from -0.0, and takes any NaN for any other."""
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert same_bits(torch.tensor([torch.nan]), -torch.tensor([torch.nan]))
    assert not same_bits(torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float16))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("reference", ["previous", "last_kept"])
def test_a_replayed_graph_goes_on_with_the_stream(backend: str, device: torch.device, reference: str) -> None:
    """A step of `prune_padded` captured with the copy of its state: each replay is the stream's next call."""
    if backend == "torch":
        pytest.skip("the reference may wait")
    x, config = field((6, 5, 4, 64), dtype=torch.bfloat16).to(device), sp.PruneConfig(reference=reference)
    pruner = sp.StreamPruner(config, backend=backend)
    expected = [pruner(x[n : n + 1]) for n in range(6)]
    state, given = expected[0].state.clone(), x[1:2].clone()
    padded(given, config, backend=backend, capacity=20, state=state)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = padded(given, config, backend=backend, capacity=20, state=state)
        state.copy_(out.state)
    for n in range(1, 6):
        given.copy_(x[n : n + 1])
        graph.replay()
        kept = int(out.cu_counts[-1])
        assert torch.equal(out.keep, expected[n].keep)
        assert torch.equal(out.tokens[:kept], expected[n].tokens)
        assert torch.equal(out.carriers, expected[n].carriers)
        assert torch.equal(state.reference, expected[n].state.reference)
