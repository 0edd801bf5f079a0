"""Bad input: refused before anything is computed, by a message that names the argument, with the state as it was."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import torch
from features import field
from tolerances import assert_bits, assert_same_state, padded

import streamprune_triton as sp

BAD_CONFIGS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"temporal_threshold": 1.5}, ValueError, r"temporal_threshold.*\[-1, 1\].*1\.5"),
    ({"temporal_threshold": -1.01}, ValueError, r"temporal_threshold.*\[-1, 1\].*-1\.01"),
    ({"temporal_threshold": float("nan")}, ValueError, r"temporal_threshold.*nan"),
    ({"spatial_threshold": 2}, ValueError, r"spatial_threshold.*\[-1, 1\].*2"),
    ({"spatial_threshold": float("inf")}, ValueError, r"spatial_threshold.*inf"),
    ({"spatial_threshold": "0.5"}, TypeError, "spatial_threshold.*str"),
    ({"temporal_threshold": True}, TypeError, "temporal_threshold.*bool"),
    ({"keep_tokens": -1}, ValueError, "keep_tokens.*-1"),
    ({"keep_tokens": 1.0}, TypeError, "keep_tokens.*float"),
    ({"max_tokens": -3}, ValueError, "max_tokens.*-3"),
    ({"max_tokens": "4"}, TypeError, "max_tokens.*str"),
    ({"keyframe_interval": 0}, ValueError, "keyframe_interval.*0"),
    ({"keyframe_interval": 1.5}, TypeError, "keyframe_interval.*float"),
    ({"mask": "chessboard"}, ValueError, "mask.*checkerboard.*chessboard"),
    ({"mask": 3}, ValueError, "mask.*3"),
    ({"keep_tokens": 2**31}, ValueError, "keep_tokens.*2147483648"),
    ({"mask": np.ones((3, 3), bool)}, ValueError, r"mask.*got ndarray$"),
    ({"mask": torch.zeros(2, 2)}, ValueError, r"mask.*bool.*float32"),
    ({"mask": torch.zeros(2, 2)}, ValueError, r"mask.*: use mask.bool\(\)$"),
    ({"mask": torch.zeros(2, 2, 2, dtype=torch.bool)}, ValueError, r"mask.*\(2, 2, 2\)$"),
    ({"neighbors": "all"}, ValueError, "neighbors.*grid, survivors.*all"),
    ({"neighbors": None}, ValueError, "neighbors.*None"),
    ({"reference": "first"}, ValueError, "reference.*previous, last_kept.*first"),
    ({"scope": "video"}, ValueError, "scope.*frame, clip.*video"),
    ({"carrier": "max"}, ValueError, "carrier.*all, kept.*max"),
    ({"carrier": True}, ValueError, "carrier.*True"),
    ({"keep_tokens": 1, "max_tokens": 1}, ValueError, "max_tokens.*keep_tokens"),
    ({"reference": "last_kept", "keep_tokens": 1, "scope": "clip"}, ValueError, "last_kept.*clip"),
]


@pytest.mark.parametrize(
    ("given", "error", "message"), BAD_CONFIGS, ids=[str(sorted(c[0].items())) for c in BAD_CONFIGS]
)
def test_config(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"(?s){message}"):
        sp.PruneConfig(**given)


def test_config_at_its_limits() -> None:
    """What is just allowed is allowed."""
    sp.PruneConfig(temporal_threshold=-1, spatial_threshold=1.0, keep_tokens=0, keyframe_interval=1)
    sp.PruneConfig(temporal_threshold=1, spatial_threshold=-1.0, max_tokens=0, scope="clip", reference="last_kept")
    sp.PruneConfig(temporal_threshold=None, spatial_threshold=None, mask=None, carrier=None)


def test_numbers_of_numpy_are_numbers() -> None:
    config = sp.PruneConfig(np.float32(0.25), np.float64(0.5), keep_tokens=np.int64(3), keyframe_interval=np.int32(2))
    assert config == sp.PruneConfig(0.25, 0.5, keep_tokens=3, keyframe_interval=2)
    assert {type(config.temporal_threshold), type(config.keep_tokens)} == {float, int}
    assert sp.prune_padded(torch.ones(1, 2, 2, 4), capacity=np.int64(4)).tokens.shape == (4, 4)


def test_a_mask_is_the_configs_own() -> None:
    mask = torch.ones(2, 2, dtype=torch.bool)
    config = sp.PruneConfig(mask=mask)
    held = {config: 1}
    mask.zero_()
    assert config in held
    assert bool(config.mask.all())


def test_config_is_frozen_and_compares_by_value() -> None:
    config = sp.PruneConfig(mask=torch.tensor([[True, False]]))
    with pytest.raises(AttributeError):
        config.mask = "all"  # type: ignore[misc]
    assert config == sp.PruneConfig(mask=torch.tensor([[True, False]]))
    assert hash(config) == hash(sp.PruneConfig(mask=torch.tensor([[True, False]])))
    assert config != sp.PruneConfig(mask=torch.tensor([[True], [False]]))
    assert config != sp.PruneConfig()
    assert sp.PruneConfig() == sp.PruneConfig(temporal_threshold=0.2)


GOOD = (2, 3, 4, 8)


def good(device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return field(GOOD, redundancy=0.5, dtype=dtype).to(device)


BAD_FEATURES: list[tuple[str, Any, type[Exception], str]] = [
    ("rank 3", torch.zeros(3, 4, 8), ValueError, r"\bx\b.*\(T, H, W, D\).*\(3, 4, 8\)"),
    ("rank 5", torch.zeros(1, 2, 3, 4, 8), ValueError, r"\bx\b.*\(T, H, W, D\).*\(1, 2, 3, 4, 8\)"),
    ("rank 0", torch.tensor(1.0), ValueError, r"\bx\b.*\(T, H, W, D\)"),
    ("int64", torch.zeros(GOOD, dtype=torch.int64), TypeError, r"\bx\b.*float32.*int64"),
    ("uint8", torch.zeros(GOOD, dtype=torch.uint8), TypeError, r"\bx\b.*uint8"),
    ("bool", torch.zeros(GOOD, dtype=torch.bool), TypeError, r"\bx\b.*bool"),
    ("float64", torch.zeros(GOOD, dtype=torch.float64), TypeError, r"\bx\b.*float64"),
    ("complex", torch.zeros(GOOD, dtype=torch.complex64), TypeError, r"\bx\b.*complex64"),
    ("no height", torch.zeros(2, 0, 4, 8), ValueError, r"\bx\b.*\(2, 0, 4, 8\)"),
    ("no width", torch.zeros(2, 3, 0, 8), ValueError, r"\bx\b.*\(2, 3, 0, 8\)"),
    ("no features", torch.zeros(2, 3, 4, 0), ValueError, r"\bx\b.*\(2, 3, 4, 0\)"),
    ("array", torch.zeros(GOOD).numpy(), TypeError, r"\bx\b.*tensor.*ndarray: give torch.as_tensor\(x\)$"),
    ("sparse", torch.zeros(GOOD).to_sparse(), TypeError, r"\bx\b.*dense.*sparse_coo: use x.to_dense\(\)$"),
    ("none", None, TypeError, r"\bx\b.*tensor.*NoneType"),
    ("other height", torch.zeros(2, 4, 4, 8), ValueError, r"\bx\b.*\(3, 4\).*\(4, 4\)"),
    ("transposed grid", torch.zeros(2, 4, 3, 8), ValueError, r"\bx\b.*\(3, 4\).*\(4, 3\)"),
    ("other D", torch.zeros(2, 3, 4, 16), ValueError, r"\bx\b.*\bD\b.*8.*16"),
    ("other dtype", torch.zeros(GOOD, dtype=torch.float16), ValueError, r"\bx\b.*dtype.*float32.*float16"),
    ("other device", torch.zeros(GOOD, device="meta"), ValueError, r"\bx\b.*device.*meta"),
    ("no frames, other grid", torch.zeros(0, 4, 4, 8), ValueError, r"\bx\b.*\(3, 4\).*\(4, 4\)"),
]


@pytest.mark.parametrize("how", ["prune", "padded", "pruner"])
@pytest.mark.parametrize(("name", "bad", "error", "message"), BAD_FEATURES, ids=[case[0] for case in BAD_FEATURES])
def test_features(
    backend: str, device: torch.device, how: str, name: str, bad: Any, error: type[Exception], message: str
) -> None:
    """Each call refuses, and afterwards the stream goes on as if the call had never been made."""
    del name
    config = sp.PruneConfig(reference="last_kept")
    pruner = sp.StreamPruner(config, backend=backend)
    pruner(good(device))
    state, undisturbed = pruner.state, pruner.clone()
    assert state is not None
    before = state.clone()
    bad = bad.to(device) if isinstance(bad, torch.Tensor) and bad.device.type != "meta" else bad
    calls = {
        "prune": lambda: sp.prune(bad, config, state=state, backend=backend),
        "padded": lambda: padded(bad, config, backend=backend, capacity=4, state=state),
        "pruner": lambda: pruner(bad),
    }
    with pytest.raises(error, match=f"(?s){message}"):
        calls[how]()
    assert pruner.state is state
    assert_same_state(state, before)
    result, expected = pruner(good(device) * 1.5), undisturbed(good(device) * 1.5)
    assert_bits(result.keep, expected.keep, "keep")
    assert_bits(result.tokens, expected.tokens, "tokens")


BAD_LISTS: list[tuple[str, Any, type[Exception], str]] = [
    (
        "other dtype",
        [torch.zeros(GOOD), torch.zeros(GOOD).half()],
        ValueError,
        r"\bx\b.*dtype.*float32.*x\[1\].*float16",
    ),
    ("other D", [torch.zeros(GOOD), torch.zeros(1, 1, 1, 9)], ValueError, r"\bx\b.*\bD\b.*8.*x\[1\].*9"),
    ("other device", [torch.zeros(GOOD), torch.zeros(GOOD, device="meta")], ValueError, r"\bx\b.*device.*x\[1\].*meta"),
    ("other rank", [torch.zeros(GOOD), torch.zeros(3, 4, 8)], ValueError, r"x\[1\].*\(3, 4, 8\)"),
    ("an integer one", [torch.zeros(GOOD), torch.zeros(GOOD).int()], TypeError, r"x\[1\].*int32"),
    ("not a tensor", [torch.zeros(GOOD), 3], TypeError, r"x\[1\].*tensor.*int"),
    ("a list of lists", [[torch.zeros(GOOD)]], TypeError, r"x.*tensor.*list"),
    ("a generator", (torch.zeros(GOOD) for _ in range(2)), TypeError, r"\bx\b.*generator"),
]


@pytest.mark.parametrize(("name", "bad", "error", "message"), BAD_LISTS, ids=[case[0] for case in BAD_LISTS])
def test_lists(backend: str, device: torch.device, name: str, bad: Any, error: type[Exception], message: str) -> None:
    """A batch with one bad stream is refused as a whole."""
    if isinstance(bad, list) and name != "other device":
        bad = [x.to(device) if isinstance(x, torch.Tensor) else x for x in bad]
    if name == "other device" and device.type != "cpu":
        bad[0] = bad[0].to(device)
    with pytest.raises(error, match=f"(?s){message}"):
        sp.prune(bad, sp.PruneConfig(), backend=backend)


def test_states(backend: str, device: torch.device) -> None:
    """A state that is none, or not one for each stream."""
    x = good(device)
    state = sp.prune(x, backend=backend).state
    with pytest.raises(TypeError, match=r"state.*StreamState.*dict"):
        sp.prune(x, state=state.state_dict(), backend=backend)
    with pytest.raises(ValueError, match=r"state.*\b2\b"):
        sp.prune([x, x], state=[state], backend=backend)
    with pytest.raises(ValueError, match="state"):
        sp.prune([x, x], state=state, backend=backend)
    with pytest.raises(TypeError, match=r"state.*StreamState.*int"):
        sp.prune([x, x], state=[state, 3], backend=backend)
    with pytest.raises(TypeError, match=r"state.*StreamState.*list"):
        sp.prune(x, state=[state], backend=backend)
    before = state.clone()
    with pytest.raises(ValueError, match=r"x\[1\].*\(3, 4\)"):
        sp.prune([x, x[:, :2]], state=[state, state], backend=backend)
    assert_same_state(state, before)


@pytest.mark.parametrize(
    ("part", "bad"),
    [
        ("reference", torch.zeros(3, 4)),
        ("reference", torch.zeros(0, 4, 8)),
        ("reference", [0.0]),
        ("squared_norms", torch.zeros(2, 4)),
        ("squared_norms", torch.zeros(3, 4, dtype=torch.float64)),
        ("squared_norms", torch.zeros(3, 4, device="meta")),
        ("frames", torch.tensor(1, dtype=torch.int32)),
        ("frames", 1),
    ],
)
def test_a_state_that_was_put_together_wrongly(backend: str, device: torch.device, part: str, bad: Any) -> None:
    state = sp.prune(good(device), backend=backend).state
    bad = bad.to(device) if isinstance(bad, torch.Tensor) and bad.device.type != "meta" else bad
    wrong = dataclasses.replace(state, **{part: bad})
    with pytest.raises((ValueError, TypeError), match=rf"^state\[1\]\.{part} must be"):
        sp.prune([good(device)] * 2, state=[None, wrong], backend=backend)
    if isinstance(bad, torch.Tensor):
        with pytest.raises(ValueError, match=rf"^state_dict\.{part} must be"):
            sp.StreamPruner(backend=backend).load_state_dict(wrong.state_dict())


def test_a_nested_tensor() -> None:
    """Whose frames differ in size: its parts are a batch."""
    x = torch.nested.nested_tensor([torch.zeros(2, 3, 4, 8), torch.zeros(1, 3, 4, 8)], layout=torch.jagged)
    with pytest.raises(TypeError, match=r"^x must be a dense tensor, got a nested one: give list\(x\.unbind\(\)\)$"):
        sp.prune(x)
    assert [len(result.keep) for result in sp.prune(list(x.unbind()))] == [2, 1]


def test_no_stream_at_all() -> None:
    assert sp.prune([]) == []
    with pytest.raises(TypeError, match="config"):
        sp.prune([], None)
    with pytest.raises(ValueError, match="backend"):
        sp.prune([], backend="numpy")


@pytest.mark.parametrize("shape", [(3, 5), (4, 3), (1, 1)])
def test_mask_of_another_shape(backend: str, device: torch.device, shape: tuple[int, int]) -> None:
    config = sp.PruneConfig(mask=torch.ones(shape, dtype=torch.bool))
    message = rf"mask.*\(3, 4\).*{re.escape(str(shape))}"
    pruner = sp.StreamPruner(config, backend=backend)
    for call in (
        lambda: sp.prune(good(device), config, backend=backend),
        lambda: sp.prune([good(device)], config, backend=backend),
        lambda: padded(good(device), config, backend=backend, capacity=3),
        lambda: pruner(good(device)),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert pruner.state is None


def test_config_of_another_type(backend: str, device: torch.device) -> None:
    for config in ({"mask": None}, None, "checkerboard"):
        with pytest.raises(TypeError, match=rf"config.*PruneConfig.*{type(config).__name__}"):
            sp.prune(good(device), config, backend=backend)
        with pytest.raises(TypeError, match=rf"config.*PruneConfig.*{type(config).__name__}"):
            sp.StreamPruner(config, backend=backend)


@pytest.mark.parametrize("name", ["cuda", "Triton", None, ""])
def test_backend(name: Any) -> None:
    with pytest.raises(ValueError, match=rf"backend.*auto, triton, torch.*{name!r}"):
        sp.prune(torch.zeros(GOOD), backend=name)
    with pytest.raises(ValueError, match=rf"backend.*auto, triton, torch.*{name!r}"):
        sp.StreamPruner(backend=name)


def test_triton_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, and not told to interpret, the kernels refuse; "auto" takes the reference."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match=r"backend=.triton.*cpu"):
        sp.prune(torch.zeros(GOOD), backend="triton")
    assert sp.prune(torch.zeros(GOOD)).keep.all()


@pytest.mark.parametrize(
    ("capacity", "error"),
    [
        (-1, ValueError),
        (2**31, ValueError),
        (2**70, ValueError),
        (2.0, TypeError),
        (True, TypeError),
        (None, TypeError),
    ],
)
def test_capacity(backend: str, device: torch.device, capacity: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^capacity must be"):
        padded(good(device), sp.PruneConfig(), backend=backend, capacity=capacity)


def test_out(backend: str, device: torch.device) -> None:
    """An `out` of other shapes, dtypes or options, or of another type, is refused and not written to."""
    config = sp.PruneConfig()
    x = good(device)
    out = padded(x, config, backend=backend, capacity=5)
    before = {name: getattr(out, name).clone() for name in ("keep", "temporal", "counts", "carriers")}
    more = {"backend": backend, "out": out}
    for call in (
        lambda: padded(x, config, capacity=6, **more),
        lambda: padded(x[:1], config, capacity=5, **more),
        lambda: padded(x[:, :2], config, capacity=5, **more),
        lambda: padded(x[..., :4], config, capacity=5, **more),
        lambda: padded(x.half(), config, capacity=5, **more),
        lambda: padded(x, sp.PruneConfig(carrier=None), capacity=5, **more),
    ):
        with pytest.raises(ValueError, match=r"^out.* must .*: give a result of the same x, config and capacity$"):
            call()
    wide = torch.zeros(5, 16, device=device)
    for name, bad in (
        ("tokens", wide[:, :8]),
        ("keep", out.keep.permute(0, 2, 1).contiguous()),
        ("temporal", out.temporal.permute(0, 2, 1).contiguous().permute(0, 2, 1)),
        ("carriers", x[0, 0, :3]),
    ):
        with pytest.raises(ValueError, match=rf"^out\.{name} must"):
            padded(x, config, capacity=5, backend=backend, out=dataclasses.replace(out, **{name: bad}))
    assert not wide.any()
    held = out.state.clone()
    shared = dataclasses.replace(held, squared_norms=out.state.squared_norms)
    with pytest.raises(ValueError, match=r"^out\.state\.squared_norms must not share memory with state"):
        padded(x, config, capacity=5, backend=backend, out=out, state=shared)
    with pytest.raises(ValueError, match=r"^out\.tokens must not share memory with x$"):
        padded(x, config, capacity=5, backend=backend, out=dataclasses.replace(out, tokens=x.flatten(0, 2)[:5]))
    with pytest.raises(TypeError, match="out"):
        padded(x, config, capacity=5, backend=backend, out=sp.prune(x, config, backend=backend))
    with pytest.raises(ValueError, match="out"):
        padded(x, config, capacity=5, backend=backend, out=out, state=out.state)
    for name, value in before.items():
        assert_bits(getattr(out, name), value, name)


def test_state_dict_of_something_else(backend: str, device: torch.device) -> None:
    """load_state_dict refuses what is no state, and changes nothing then."""
    pruner = sp.StreamPruner(backend=backend)
    pruner(good(device))
    state, tensors = pruner.state, pruner.state_dict()
    missing = {name: tensor for name, tensor in tensors.items() if name != "frames"}
    for bad in (
        missing,
        tensors | {"more": torch.zeros(())},
        tensors | {"frames": torch.tensor(-1)},
        tensors | {"frames": torch.zeros(2, dtype=torch.int64)},
        tensors | {"frames": torch.zeros(())},
        tensors | {"reference": tensors["reference"][0]},
        tensors | {"reference": tensors["reference"].double()},
        tensors | {"squared_norms": tensors["squared_norms"].T},
        tensors | {"squared_norms": tensors["squared_norms"].half()},
    ):
        with pytest.raises(ValueError, match="state_dict"):
            pruner.load_state_dict(bad)
        assert pruner.state is state
    for bad in (None, [], 3):
        with pytest.raises(TypeError, match=r"state_dict must be a dict of tensors, got"):
            pruner.load_state_dict(bad)
        assert pruner.state is state


def test_failure_while_computing(device: torch.device, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that fails for whatever reason leaves the stream as it was."""
    pruner = sp.StreamPruner(sp.PruneConfig(reference="last_kept"), backend=backend)
    pruner(good(device))
    state = pruner.state
    assert state is not None
    before = state.clone()

    def fail(*args: object, **kwargs: object) -> None:
        raise MemoryError("none left")

    with monkeypatch.context() as patch:
        patch.setattr("streamprune_triton.ops.run", fail)
        with pytest.raises(MemoryError):
            pruner(good(device))
    assert pruner.state is state
    assert_same_state(state, before)
    assert int(pruner(good(device)).state.frames) == 4


def test_a_short_message(backend: str, device: torch.device) -> None:
    """Messages say what came and what is allowed, and never print the features."""
    with pytest.raises(ValueError, match=r"\bx\b") as caught:
        sp.prune(torch.rand(100, 100, 8).to(device), backend=backend)
    assert len(str(caught.value)) < 300
