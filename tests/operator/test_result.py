"""What a call hands back: when it waits, what memory it holds, how a state is saved, copied and restored."""

from __future__ import annotations

import dataclasses
import gc
import io
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from features import field, spoil
from safetensors.torch import load, save
from tolerances import assert_agrees, assert_bits, assert_same_state, padded
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import streamprune_triton as sp

FIELDS = ("keep", "counts", "cu_counts", "temporal", "spatial", "nonfinite", "carriers")


class Reads(TorchDispatchMode):
    """Counts how often a tensor's value is asked for, each of which waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_tokens_are_cut_when_asked_for(backend: str, device: torch.device) -> None:
    """One wait for tokens and indices together, at the first of them; none to print a result."""
    result = sp.prune(field((3, 3, 4, 8), redundancy=0.5).to(device), backend=backend)
    with Reads() as reads:
        repr(result)
        assert reads.count == 0
        tokens = result.tokens
        assert reads.count == 1
        indices = result.indices
        assert result.tokens is tokens
        assert result.indices is indices
        assert reads.count == 1
    assert len(tokens) == len(indices) == int(result.cu_counts[-1])


def test_everything_prints_in_a_line_without_a_wait(backend: str, device: torch.device) -> None:
    x, pruner = field((3, 3, 4, 8), redundancy=0.5).to(device), sp.StreamPruner(backend=backend)
    pruner(x)
    padded_result = padded(x, pruner.config, backend=backend, capacity=7)
    with Reads() as reads:
        told = [repr(each) for each in (padded_result, pruner.state, pruner)]
    assert reads.count == 0
    assert told[0] == "PaddedPruneResult(frames=3, grid=(3, 4), capacity=7, carriers=True)"
    assert told[1] == f"StreamState(torch.float32 of shape (3, 4, 8) on {x.device})"
    assert told[2] == f"StreamPruner({pruner.config}, backend={backend!r}, state={told[1]})"


def test_drop_ratio(backend: str, device: torch.device) -> None:
    """The share that is not kept, whatever it was dropped for."""
    x = torch.ones(2, 2, 2, 3, device=device)
    result = sp.prune(x, backend=backend)
    assert result.counts.tolist() == [2, 0]  # two candidates in space, everything in time
    assert result.drop_ratio == pytest.approx(0.75)
    assert isinstance(result.drop_ratio, float)
    x[0, 0, 0] = torch.nan
    assert sp.prune(x, sp.PruneConfig(keyframe_interval=1), backend=backend).drop_ratio == pytest.approx(1 / 8)
    assert sp.prune(x[:0], backend=backend).drop_ratio == 0.0
    assert sp.prune(x, sp.PruneConfig(keep_tokens=0), backend=backend).drop_ratio == 1.0


def tensors_of(result: Any) -> Iterator[torch.Tensor]:
    """Every tensor that a result hands out."""
    for name in (*FIELDS, "tokens", "indices"):
        if getattr(result, name) is not None:
            yield getattr(result, name)
    yield from result.state.state_dict().values()


@pytest.mark.parametrize("config", [sp.PruneConfig(), sp.PruneConfig(reference="last_kept", carrier="kept")], ids=str)
def test_input_is_not_held(backend: str, device: torch.device, config: sp.PruneConfig) -> None:
    """Neither a result nor a state keeps the features alive, or shares their memory."""
    x = field((3, 3, 4, 8), redundancy=0.2).to(device)
    pruner = sp.StreamPruner(config, backend=backend)
    result = pruner(x)
    assert all(t.untyped_storage().data_ptr() != x.untyped_storage().data_ptr() for t in tensors_of(result))
    gone = weakref.ref(x)
    del x
    gc.collect()
    assert gone() is None


def test_dropped_tokens_are_not_held(backend: str, device: torch.device) -> None:
    """Once the tokens are read, a result of few tokens holds the memory of few tokens; the same in a batch."""
    x = field((8, 4, 4, 64), redundancy=1.0).to(device)
    for result in (sp.prune(x, backend=backend), *sp.prune([x, x], backend=backend)):
        kept = len(result.tokens)
        assert 0 < kept < 16
        assert result.tokens.untyped_storage().nbytes() <= 2 * kept * 64 * 4
        assert result.indices.untyped_storage().nbytes() <= 2 * kept * 8


def test_batch_does_not_hold_its_neighbours(backend: str, device: torch.device) -> None:
    """Results of a ragged batch may be let go one by one: the tokens of one hold no more than about their own."""
    few, many = torch.ones(1, 2, 2, 64, device=device), field((6, 4, 4, 64), redundancy=0.0).to(device)
    config = sp.PruneConfig(temporal_threshold=1.0, spatial_threshold=1.0)
    first = sp.prune([few, many], config, backend=backend)[0]
    assert len(first.tokens) == 4
    assert first.tokens.untyped_storage().nbytes() <= 2 * 4 * 64 * 4


def test_results_do_not_share_memory(backend: str, device: torch.device) -> None:
    """Writing to one result changes no other one, nor the state that a stream goes on from."""
    x = field((3, 3, 4, 8), redundancy=0.5).to(device)
    pruner = sp.StreamPruner(backend=backend)
    first = pruner(x)
    expected = sp.prune(x, state=first.state.clone(), backend=backend)
    first.tokens.fill_(7.0)
    first.carriers.fill_(7.0)
    first.temporal.fill_(7.0)
    x_again = x.clone()
    x.fill_(7.0)
    second = pruner(x_again)
    assert_bits(second.temporal, expected.temporal, "temporal")
    assert_bits(second.tokens, expected.tokens, "tokens")


@pytest.mark.parametrize("reference", ["previous", "last_kept"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("how", ["torch", "safetensors", "as it is"])
def test_state_dict_round_trip(
    backend: str, device: torch.device, reference: str, dtype: torch.dtype, how: str
) -> None:
    """Saved and loaded, a stream goes on bit for bit."""
    x = spoil(field((6, 3, 3, 8), redundancy=0.7, dtype=dtype), ["nan"], 1).to(device)
    config = sp.PruneConfig(reference=reference, keyframe_interval=4, temporal_threshold=0.6)
    pruner = sp.StreamPruner(config, backend=backend)
    pruner(x[:3])
    tensors = pruner.state_dict()
    if how == "safetensors":
        tensors = {name: t.to(device) for name, t in load(save(tensors)).items()}
    elif how == "torch":
        file = io.BytesIO()
        torch.save(tensors, file)
        file.seek(0)
        tensors = torch.load(file, weights_only=True)
    other = sp.StreamPruner(config, backend=backend)
    other.load_state_dict(tensors)
    assert_same_state(other.state, pruner.state)
    expected, result = pruner(x[3:]), other(x[3:])
    for name in (*FIELDS, "tokens", "indices"):
        assert_bits(getattr(result, name), getattr(expected, name), name)
    assert_same_state(result.state, expected.state)


def test_reset_and_empty_state_dict(backend: str, device: torch.device) -> None:
    """A new stream has no state to save, and loading that begins one."""
    x = field((2, 2, 2, 4), redundancy=0.9).to(device)
    pruner = sp.StreamPruner(backend=backend)
    assert pruner.state_dict() == {}
    first = pruner(x)
    assert pruner(x).temporal.isnan().sum() == 0
    pruner.reset()
    assert pruner.state_dict() == {}
    assert_bits(pruner(x).temporal, first.temporal, "temporal")
    pruner.load_state_dict({})
    assert_bits(pruner(x).temporal, first.temporal, "temporal")
    pruner.reset()
    pruner(x[:, :1, :1])  # a new stream may have another grid


@pytest.mark.parametrize("reference", ["previous", "last_kept"])
def test_clones_go_their_own_way(backend: str, device: torch.device, reference: str) -> None:
    """A clone of a pruner, and one of a state, are not changed by what the original sees later."""
    x = field((6, 3, 3, 8), redundancy=0.5).to(device)
    pruner = sp.StreamPruner(sp.PruneConfig(reference=reference, mask="alternate"), backend=backend)
    pruner(x[:2])
    assert pruner.state is not None
    fork, state = pruner.clone(), pruner.state.clone()
    assert all(a is not b for a, b in zip(state.state_dict().values(), pruner.state_dict().values(), strict=True))
    expected = sp.prune(x[2:4], pruner.config, state=state, backend=backend)
    pruner(-x[4:])
    result = fork(x[2:4])
    assert_bits(result.keep, expected.keep, "keep")
    assert_bits(result.temporal, expected.temporal, "temporal")
    assert fork.config is pruner.config
    assert fork.backend == pruner.backend
    assert int(pruner.state.frames) == int(fork.state.frames) == 4
    blank = sp.StreamPruner(backend=backend).clone()
    assert blank.state is None


def test_state_copy(backend: str, device: torch.device) -> None:
    """copy_ writes into the memory of a state, so that a replayed graph reads the new one; clone shares none."""
    x = field((4, 3, 3, 8), redundancy=0.5).to(device)
    here, there = sp.prune(x[:1], backend=backend).state, sp.prune(x, backend=backend).state
    addresses = [t.data_ptr() for t in here.state_dict().values()]
    assert here.copy_(there) is here
    assert_same_state(here, there)
    assert [t.data_ptr() for t in here.state_dict().values()] == addresses
    assert here != there, "equal is who is the same"
    assert here in [there, here]
    for other in (x[:, :1, :1], x[..., :1], x.half()):
        with pytest.raises(ValueError, match=r"^other must be a state of "):
            here.copy_(sp.prune(other, backend=backend).state)
    with pytest.raises(TypeError, match=r"^other must be a StreamState, got dict$"):
        here.copy_(there.state_dict())  # type: ignore[arg-type]
    copy = here.clone()
    here.reference.zero_()
    assert_same_state(copy, there)
    with pytest.raises(dataclasses.FrozenInstanceError):
        here.frames = there.frames  # type: ignore[misc]


def test_a_state_of_views(backend: str, device: torch.device) -> None:
    """Packed or not, a state's values are what counts."""
    x = field((3, 3, 4, 8), redundancy=0.5).to(device)
    state = sp.prune(x[:1], backend=backend).state
    wide = torch.cat([state.reference, -state.reference], -1)[..., :8]
    norms = torch.stack([state.squared_norms, -state.squared_norms], -1)[..., 0]
    views = sp.StreamState(wide, norms, state.frames)
    assert not wide.is_contiguous()
    result, expected = (sp.prune(x[1:], state=each, backend=backend) for each in (views, state))
    assert_bits(result.temporal, expected.temporal, "temporal")
    assert_bits(result.keep, expected.keep, "keep")


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(backend: str, device: torch.device, low: torch.dtype) -> None:
    """Decisions are those of float32, with values that float16 does not hold."""
    base = field((1, 3, 4, 64), redundancy=0.0).to(device) * 40
    x = base + 0.1 * field((5, 3, 4, 64), redundancy=0.0).to(device)
    config = sp.PruneConfig(0.9, 0.5, carrier="kept")
    expected = sp.prune(x, config, backend=backend)
    with torch.autocast(device.type, low):
        result = sp.prune(x, config, backend=backend)
    for name in (*FIELDS, "tokens"):
        assert_bits(getattr(result, name), getattr(expected, name), name)
    assert_same_state(result.state, expected.state)


def test_states_are_not_written_to(backend: str, device: torch.device) -> None:
    """A state may be gone on from twice."""
    x = field((4, 3, 3, 8), redundancy=0.5).to(device)
    for reference in ("previous", "last_kept"):
        config = sp.PruneConfig(reference=reference, temporal_threshold=0.6)
        state = sp.prune(x[:2], config, backend=backend).state
        before = state.clone()
        first = sp.prune(x[2:], config, state=state, backend=backend)
        assert_same_state(state, before)
        second = sp.prune(x[2:], config, state=state, backend=backend)
        assert_bits(first.keep, second.keep, "keep")
        assert_bits(first.state.reference, second.state.reference, "reference")


@pytest.mark.parametrize("carrier", ["all", "kept", None])
@pytest.mark.parametrize("reference", ["previous", "last_kept"])
def test_no_frames(backend: str, device: torch.device, carrier: str | None, reference: str) -> None:
    """T = 0 is an empty result and the same state, in every way of calling."""
    config = sp.PruneConfig(carrier=carrier, reference=reference)
    x = field((2, 3, 4, 8), redundancy=0.5).to(device)
    none = x[:0]
    for begun in (None, sp.prune(x, config, backend=backend).state):
        alone = sp.prune(none, config, state=begun, backend=backend)
        in_a_list = sp.prune([x, none, x], config, state=[None, begun, begun], backend=backend)[1]
        with_room = padded(none, config, state=begun, backend=backend, capacity=3)
        for result in (alone, in_a_list, with_room):
            rows = 3 if result is with_room else 0
            assert result.tokens.shape == (rows, 8)
            assert result.indices.shape == (rows,)
            assert result.keep.shape == result.temporal.shape == result.spatial.shape == (0, 3, 4)
            assert result.counts.shape == (0,)
            assert result.cu_counts.tolist() == [0]
            assert int(result.nonfinite) == 0
            assert result.carriers is None if carrier is None else result.carriers.shape == (0, 8)
            if begun is None:
                assert int(result.state.frames) == 0
                assert result.state.squared_norms.isnan().all()
            else:
                assert_same_state(result.state, begun)
            after = sp.prune(x, config, state=result.state, backend=backend)
            assert_bits(after.temporal, sp.prune(x, config, state=begun, backend=backend).temporal, "temporal")
        assert not bool(with_room.overflow)


def test_lists(backend: str, device: torch.device) -> None:
    """Empty lists, lists of one, tuples, streams without frames, and streams of different shapes."""
    assert sp.prune([], backend=backend) == []
    assert sp.prune([], state=[], backend=backend) == []
    shapes = [(2, 3, 4, 8), (0, 2, 2, 8), (1, 1, 1, 8), (3, 1, 5, 8), (0, 1, 1, 8)]
    xs = [field(shape, redundancy=0.6, seed=seed).to(device) for seed, shape in enumerate(shapes)]
    for batch in (xs, tuple(xs), xs[1:2], xs[:1], xs[1:2] + xs[4:], xs[::-1]):
        results = sp.prune(batch, backend=backend)
        assert isinstance(results, list)
        assert len(results) == len(batch)
        for x, result in zip(batch, results, strict=True):
            assert_agrees(result, x, {})


@pytest.mark.parametrize("reference", ["previous", "last_kept"])
def test_padded_and_its_overflow(backend: str, device: torch.device, reference: str) -> None:
    """Exactly enough room is enough; one less sets the flag and turns the last token off; no room keeps nothing."""
    x = field((3, 3, 4, 8), redundancy=0.3).to(device)
    config = sp.PruneConfig(reference=reference, temporal_threshold=0.6, spatial_threshold=0.6)
    whole = sp.prune(x, config, backend=backend)
    kept = len(whole.tokens)
    assert kept > 12
    exact = padded(x, config, backend=backend, capacity=kept)
    assert exact.overflow.item() is False
    assert_bits(exact.tokens, whole.tokens, "tokens")
    assert_bits(exact.indices, whole.indices, "indices")
    for name in FIELDS:
        assert_bits(getattr(exact, name), getattr(whole, name), name)
    less = padded(x, config, backend=backend, capacity=kept - 1)
    assert less.overflow.item() is True
    assert_bits(less.tokens, whole.tokens[:-1], "tokens")
    assert less.keep.flatten().nonzero().flatten().tolist() == whole.indices[:-1].tolist()
    assert int(less.cu_counts[-1]) == kept - 1
    none = padded(x, config, backend=backend, capacity=0)
    assert none.overflow.item() is True
    assert none.tokens.shape == (0, 8)
    assert not none.keep.any()
    assert none.cu_counts.tolist() == [0, 0, 0, 0]
    assert none.state.squared_norms.isnan().all() == (reference == "last_kept")
    more = padded(x, config, backend=backend, capacity=1000)
    assert more.tokens.shape == (1000, 8)
    assert more.overflow.item() is False
    assert_bits(more.tokens[:kept], whole.tokens, "tokens")


def test_capacity_zero_without_a_token_to_keep(backend: str, device: torch.device) -> None:
    """No room is no overflow where nothing is left."""
    x = torch.full((2, 2, 2, 4), torch.nan, device=device)
    result = padded(x, sp.PruneConfig(), backend=backend, capacity=0)
    assert result.overflow.item() is False


@pytest.mark.parametrize("carrier", ["all", None])
def test_out_is_written_again(backend: str, device: torch.device, carrier: str | None) -> None:
    """`out` comes back itself, in its own memory, with the values of a fresh result and nothing left of the old."""
    xs = field((4, 3, 4, 8), redundancy=0.5).to(device).split(2)
    config = sp.PruneConfig(carrier=carrier, temporal_threshold=0.6)
    first = padded(xs[0], config, backend=backend, capacity=9)
    state = first.state.clone()
    addresses = [first.tokens.data_ptr(), first.keep.data_ptr(), first.state.reference.data_ptr()]
    expected = padded(xs[1], config, backend=backend, capacity=9, state=state)
    assert int(expected.cu_counts[-1]) < 9
    for tensor in tensors_of(first):
        tensor.fill_(1)
    second = padded(xs[1], config, backend=backend, capacity=9, state=state, out=first)
    assert second is first
    assert [second.tokens.data_ptr(), second.keep.data_ptr(), second.state.reference.data_ptr()] == addresses
    kept = int(expected.cu_counts[-1])
    assert_bits(second.tokens[:kept], expected.tokens[:kept], "tokens")
    assert_bits(second.indices[:kept], expected.indices[:kept], "indices")
    assert (second.tokens[kept:] == 1).all(), "what is behind the last kept token is not written"
    assert (second.indices[kept:] == 1).all()
    for name in (*FIELDS, "overflow"):
        if getattr(expected, name) is not None:
            assert_bits(getattr(second, name), getattr(expected, name), name)
    assert_same_state(second.state, expected.state)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """New memory is NaN, or the largest integer, until it is written."""
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = fill


OPTIONS: list[dict[str, Any]] = [
    {},
    {"reference": "last_kept", "carrier": "kept"},
    {"keep_tokens": 5, "keyframe_interval": 2},
    {"keep_tokens": 9, "scope": "clip", "mask": None},
    {"max_tokens": 3, "carrier": None, "neighbors": "survivors"},
]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("chosen", OPTIONS, ids=str)
def test_nothing_is_read_before_it_is_written(backend: str, device: torch.device, chosen: dict[str, Any]) -> None:
    """The answers are the oracle's when all new memory is poisoned."""
    assert torch.empty(3).isnan().all()
    x = field((4, 3, 5, 7), redundancy=0.6, seed=4).to(device)
    config = sp.PruneConfig(**chosen)
    first = sp.prune(x[:2], config, backend=backend)
    told = assert_agrees(first, x[:2], chosen)
    second = sp.prune(x[2:], config, state=first.state, backend=backend)
    assert_agrees(second, x[2:], chosen, state=told.state)
    for capacity in (0, 4, 100):
        result = padded(x, config, backend=backend, capacity=capacity)
        assert_agrees(result, x, chosen, capacity=capacity)
    for batched, alone in zip(sp.prune([x[:0], x[:1], x], config, backend=backend), (x[:0], x[:1], x), strict=True):
        assert_agrees(batched, alone, chosen)
    assert not second.tokens.isnan().any()
    assert second.carriers is None or not second.carriers.isnan().any()


def test_features_that_require_a_gradient(backend: str, device: torch.device) -> None:
    """Pruning selects; features that come with a graph are pruned like others."""
    x = field((2, 3, 4, 8), redundancy=0.5).to(device)
    expected = sp.prune(x, backend=backend)
    result = sp.prune(x.clone().requires_grad_(), backend=backend)
    assert_bits(result.keep, expected.keep, "keep")
    assert_bits(result.tokens, expected.tokens, "tokens")


@pytest.mark.parametrize("carrier", ["all", "kept"])
def test_gradients_of_tokens_and_carriers(backend: str, device: torch.device, carrier: str) -> None:
    """Each kept token passes its gradient on; a carrier spreads its own over the tokens that it is the mean of."""
    x = field((2, 3, 4, 8), redundancy=0.5).to(device)
    x[1, 2, 3, 0] = torch.nan
    x.requires_grad_()
    result = sp.prune(x, sp.PruneConfig(carrier=carrier), backend=backend)
    assert 0 < len(result.tokens) < 24
    (result.tokens.sum() + 100 * result.carriers.sum()).backward()
    finite = torch.ones(2, 3, 4, dtype=torch.bool, device=device)
    finite[1, 2, 3] = False
    share = result.keep if carrier == "kept" else finite
    expected = result.keep.float() + 100 * share / share.flatten(1).sum(1)[:, None, None]
    assert torch.allclose(x.grad, expected[..., None].expand_as(x))
    with pytest.raises(ValueError, match="x must not require a gradient"):
        sp.prune_padded(x, capacity=4)


@pytest.mark.parametrize("changed", [False, True])
def test_gradients_are_those_of_the_call(backend: str, device: torch.device, changed: bool) -> None:
    """Wherever the tokens are read first, and whatever becomes of the features meanwhile."""
    leaf = field((2, 3, 4, 8), redundancy=0.5).to(device).requires_grad_()
    x = leaf * 3
    result, expected = (sp.prune(each, sp.PruneConfig(carrier=None), backend=backend) for each in (x, x.detach()))
    if changed:
        x.mul_(5)
    with torch.no_grad():
        assert_bits(result.indices, expected.indices, "indices")
        assert_bits(result.tokens, expected.tokens, "tokens")
    weight = torch.arange(len(result.tokens), device=device)[:, None] + 1.0
    (result.tokens * weight).sum().backward()
    wanted = torch.zeros_like(leaf).view(-1, 8)
    wanted[expected.indices] = 3 * weight
    assert torch.equal(leaf.grad.view(-1, 8), wanted)


def test_gradients_under_a_transform_of_torch_func(backend: str, device: torch.device) -> None:
    """Whose tensors have no memory that can be asked for."""
    x = field((2, 3, 4, 8), redundancy=0.5).to(device)
    gradient = torch.func.grad(lambda each: sp.prune(each, sp.PruneConfig(), backend=backend).tokens.sum())(x)
    kept = sp.prune(x, sp.PruneConfig(), backend=backend).keep
    assert 0 < kept.sum() < kept.numel()
    assert torch.equal(gradient, kept[..., None].expand_as(x).float())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # which forward_ad asks for
def test_forward_differentiation_is_refused(backend: str, device: torch.device) -> None:
    """Its tangents would be lost without a word."""
    plain, config = field((2, 3, 4, 8), redundancy=0.5).to(device), sp.PruneConfig()
    with forward_ad.dual_level():
        x = forward_ad.make_dual(plain, plain)
        for call in (
            lambda: sp.prune(x, config, backend=backend),
            lambda: sp.prune([plain, x], config, backend=backend),
            lambda: padded(x, config, backend=backend, capacity=4),
        ):
            with pytest.raises(ValueError, match=r"^x must not carry a forward-mode tangent: use .* or x\.detach\(\)$"):
                call()
        assert len(sp.prune(x.detach(), config, backend=backend).keep) == 2


def test_gradients_of_tokens_that_are_first_read_in_inference_mode(backend: str, device: torch.device) -> None:
    x = field((2, 3, 4, 8), redundancy=0.5).to(device).requires_grad_()
    result = sp.prune(x, backend=backend)
    with torch.inference_mode():
        result.tokens.norm()
    result.tokens.sum().backward()
    assert torch.equal(x.grad, result.keep[..., None].expand_as(x).float())


def test_inference_mode(backend: str, device: torch.device) -> None:
    """As `generate` calls it; the state is good outside of it, too."""
    x = field((2, 3, 4, 8), redundancy=0.5).to(device)
    pruner = sp.StreamPruner(sp.PruneConfig(reference="last_kept"), backend=backend)
    with torch.inference_mode():
        pruner(x)
    expected = sp.prune(torch.cat([x, -x]), pruner.config, backend=backend)
    assert_bits(pruner(-x).keep, expected.keep[2:], "keep")
