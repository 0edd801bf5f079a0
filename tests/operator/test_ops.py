"""The registered operators: schema, fake kernels, tracing, and which backend really ran."""

from __future__ import annotations

import pytest
import torch

import streamprune_triton as sp
from streamprune_triton import ops
from streamprune_triton.rule import Rule

CONFIGS = {
    "default": sp.PruneConfig(),
    "last_kept": sp.PruneConfig(reference="last_kept", neighbors="survivors"),
    "budget": sp.PruneConfig(keep_tokens=3, carrier=None),
    "clip": sp.PruneConfig(keep_tokens=5, scope="clip", mask=torch.eye(3, 4, dtype=torch.bool)),
    "cap": sp.PruneConfig(max_tokens=2, carrier="kept", mask="alternate"),
}


@pytest.fixture
def arguments(device):
    """Arguments of the operator for two streams that have been seen before, with capacities that are just filled:
    opcheck compares two runs bit by bit, so no value may be NaN or left unwritten."""

    def build(config: sp.PruneConfig) -> tuple:
        generator = torch.Generator().manual_seed(0)
        x = [torch.randn(t, 3, 4, 32, generator=generator).to(device) for t in (2, 1)]
        states = [sp.prune(torch.randn(1, 3, 4, 32, generator=generator).to(device), backend="torch").state for _ in x]
        results = [sp.prune(each, config, state=s, backend="torch") for each, s in zip(x, states, strict=True)]
        held = [list(v) for v in zip(*((s.reference, s.squared_norms, s.frames) for s in states), strict=True)]
        return (x, *held, *Rule.of(config, x[0].device), [int(r.counts.sum()) for r in results])

    return build


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_opcheck(arguments, config):
    torch.library.opcheck(torch.ops.streamprune.prune.default, arguments(config))


@pytest.mark.parametrize("name", ["default", "last_kept"])
def test_opcheck_out(arguments, name):
    inputs = arguments(CONFIGS[name])
    results = torch.ops.streamprune.prune(*inputs)
    out = [[torch.zeros_like(t) for t in r] if isinstance(r, list) else torch.zeros_like(r) for r in results]
    torch.library.opcheck(torch.ops.streamprune.prune_out.default, (*inputs, *out))


@pytest.mark.parametrize("state", [False, True], ids=["first", "later"])
def test_compiles_as_one_graph(device, state):
    generator = torch.Generator().manual_seed(0)
    x, before = torch.randn(2, 2, 3, 4, 32, generator=generator).to(device)
    held = sp.prune(before).state if state else None

    def step(x):
        result = sp.prune_padded(x, sp.PruneConfig(0.1, 0.1), capacity=20, state=held)
        return result.tokens * 2, result.indices, result.cu_counts, result.carriers, result.state.squared_norms

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    eager, traced = step(x), compiled(x)
    kept = int(eager[2][-1])
    assert 0 < kept < 20
    for a, b in zip(eager, traced, strict=True):
        rows = kept if len(a) == 20 else len(a)
        assert torch.equal(a[:rows], b[:rows])


def test_new_clip_length_compiles_nothing_new_in_a_dynamic_graph(device):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    step = torch.compile(lambda x: sp.prune_padded(x, capacity=8).counts, fullgraph=True, backend=backend, dynamic=True)
    for t in (2, 3, 5):
        assert step(torch.randn(t, 3, 4, 32, device=device)).shape == (t,)
    assert len(graphs) == 1


def test_out_is_written_and_returned(device):
    x, y = torch.randn(2, 2, 3, 4, 32, device=device)
    first = sp.prune_padded(x, capacity=24)
    fresh = sp.prune_padded(y, capacity=24)
    pointer = first.tokens.data_ptr()
    again = sp.prune_padded(y, capacity=24, out=first)
    assert again is first
    assert again.tokens.data_ptr() == pointer
    kept = int(fresh.cu_counts[-1])
    assert torch.equal(again.tokens[:kept], fresh.tokens[:kept])
    for name in ("keep", "counts", "cu_counts", "carriers", "spatial", "nonfinite", "overflow"):
        assert torch.equal(getattr(again, name), getattr(fresh, name)), name


def test_out_is_part_of_one_graph(device):
    x, y = torch.randn(2, 2, 3, 4, 32, device=device)
    out = sp.prune_padded(x, capacity=24)
    step = torch.compile(lambda y: sp.prune_padded(y, capacity=24, out=out).keep, fullgraph=True, backend="aot_eager")
    assert torch.equal(step(y), sp.prune_padded(y, capacity=24).keep)
    assert torch.equal(out.keep, sp.prune_padded(y, capacity=24).keep)


@pytest.mark.parametrize("name", ["CPU", "CUDA", "MPS", "XPU", "HPU", "PrivateUse1"])
@pytest.mark.parametrize("operator", ["streamprune::prune", "streamprune::prune_out"])
def test_every_device_has_the_operators(operator, name):
    assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(operator, name)


def test_without_triton_a_gpu_runs_the_specification(monkeypatch):
    monkeypatch.setattr(ops, "HAS_TRITON", False)
    assert not ops.runs_triton(torch.device("cuda"))
    assert sp.prune(torch.zeros(1, 2, 2, 8)).keep.all()
    with pytest.raises(ValueError, match=r'backend="triton" needs Triton, which is not installed: pip install triton'):
        sp.prune(torch.zeros(1, 2, 2, 8), backend="triton")


def test_out_must_fit_and_must_not_alias(device):
    x = torch.randn(2, 3, 4, 32, device=device)
    out = sp.prune_padded(x, capacity=24)
    with pytest.raises(ValueError, match=r"out\.tokens must be"):
        sp.prune_padded(x, capacity=23, out=out)
    with pytest.raises(ValueError, match=r"^out must have no carriers for config\.carrier=None: give"):
        sp.prune_padded(x, sp.PruneConfig(carrier=None), capacity=24, out=out)
    with pytest.raises(ValueError, match=r"out\.state\.reference must not share memory"):
        sp.prune_padded(x, capacity=24, state=out.state, out=out)
    with pytest.raises(TypeError, match="out must be"):
        sp.prune_padded(x, capacity=24, out="buffers")


def test_the_operator_runs_the_backend_it_says(device, monkeypatch):
    """Nothing else in these tests would notice if the kernels were quietly replaced by the specification."""
    called = []
    monkeypatch.setattr(ops, "by_torch", lambda *a, inner=ops.by_torch: called.append("torch") or inner(*a))
    monkeypatch.setattr(ops, "by_triton", lambda *a, inner=ops.by_triton: called.append("triton") or inner(*a))
    torch.ops.streamprune.prune([torch.randn(1, 2, 2, 8, device=device)], *[[None]] * 3, *_default_rule(device), [4])
    assert called == ["triton" if ops.runs_triton(device) else "torch"]


def test_triton_on_a_cpu_is_refused_without_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match='backend="triton" needs x on a GPU'):
        sp.prune(torch.zeros(1, 2, 2, 8), backend="triton")


def _default_rule(device):
    return Rule.of(sp.PruneConfig(), device)
