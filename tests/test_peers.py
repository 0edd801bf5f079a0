"""The peers of the benchmark against naive loops over small inputs, and what their docstrings promise."""

from __future__ import annotations

import math

import pytest
import torch

import streamprune_triton as sp
from benchmarks import peers


def field(*shape: int, seed: int = 0, change: float = 0.9) -> torch.Tensor:
    """(T, H, W, D) float32 tokens that resemble those before and beside them to degrees of all kinds."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(shape[-1], generator=generator)
    frames = [0.8 * common + torch.randn(shape[1:], generator=generator)]
    for _ in range(shape[0] - 1):
        share = change * torch.rand((*shape[1:3], 1), generator=generator)
        frames.append((1 - share) * frames[-1] + share * (common + torch.randn(shape[1:], generator=generator)))
    return torch.stack(frames)


def cos(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double(), b.double()
    return float(a @ b / (a.norm().clamp_min(1e-8) * b.norm().clamp_min(1e-8)))


def places(x: torch.Tensor) -> list[tuple[int, int]]:
    return [(i, j) for i in range(x.shape[1]) for j in range(x.shape[2])]


def neighbors(x: torch.Tensor, i: int, j: int) -> list[tuple[int, int]]:
    return [p for p in ((i, j - 1), (i, j + 1), (i - 1, j), (i + 1, j)) if p in places(x)]


CLIPS = [field(6, 3, 4, 24), field(3, 5, 2, 17, seed=1), field(1, 2, 2, 8), field(2, 1, 1, 8), field(9, 1, 6, 33)]


@pytest.fixture(params=CLIPS, ids=lambda x: "x".join(map(str, x.shape)))
def x(request: pytest.FixtureRequest) -> torch.Tensor:
    return request.param


@pytest.mark.parametrize("name", peers.PEERS)
def test_every_peer_maps_features_to_a_keep_mask(name, x):
    before = x.clone()
    for features in (x, x.bfloat16(), x.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)):
        keep = peers.PEERS[name](features)
        assert keep.shape == x.shape[:3]
        assert keep.dtype == torch.bool
        assert keep.any()
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", peers.PEERS)
def test_every_peer_says_what_it_is(name):
    assert peers.PEERS[name].computes in ("temporal", "spatial", "both", "merge")
    text = getattr(peers, name).__doc__
    for word in ("arXiv", "Formula:", "Less than ours:", "Host waits:", "Returns:"):
        assert word in text, word


@pytest.mark.parametrize("q", [0.0, 0.3, 0.75, 1.0])
def test_evs(x, q):
    t, h, w, _ = x.shape
    ranked = [(-math.inf, 0, i, j) for i, j in places(x)]
    ranked += [(cos(x[n, i, j], x[n - 1, i, j]), n, i, j) for n in range(1, t) for i, j in places(x)]
    kept = {each[1:] for each in sorted(ranked)[: max(h * w, int(t * h * w * (1 - q)))]}
    assert set(map(tuple, peers.evs(x, q).nonzero().tolist())) == kept


def test_evs_ties_go_to_the_lower_index():
    assert peers.evs(torch.ones(4, 2, 3, 8), 0.6).flatten().nonzero().flatten().tolist() == list(range(9))


def test_evs_degenerates_in_bf16_and_our_step_does_not():
    x = field(16, 8, 8, 128, change=0.1)
    budget = sp.PruneConfig(mask=None, keep_tokens=256, scope="clip")
    half = x.bfloat16()
    right = peers.evs(half.double(), 0.75)
    assert (peers.evs(half, 0.75) != right).sum() > 100
    assert (sp.prune(half, budget, backend="torch").keep != right).sum() <= 2


@pytest.mark.parametrize("tau", [-1.0, 0.5, 0.9, 1.0])
def test_dtd_both_ways(x, tau):
    expected = torch.ones(x.shape[:3], dtype=torch.bool)
    for n in range(1, len(x)):
        for i, j in places(x):
            expected[n, i, j] = cos(x[n, i, j], x[n - 1, i, j]) <= tau
    assert torch.equal(peers.dtd(x, tau), expected)
    assert torch.equal(peers.dtd_published(x, tau), expected)


def test_dtd_with_a_carried_frame_does_not_depend_on_the_cut():
    x = field(6, 3, 4, 24)
    whole = peers.dtd(x, 0.9)
    assert torch.equal(torch.cat([peers.dtd(x[:4], 0.9), peers.dtd(x[4:], 0.9, x[3])]), whole)
    assert peers.dtd(x[4:], 0.9).sum() > whole[4:].sum()  # a cut without it keeps a whole frame


def test_dtd_is_our_step_without_the_spatial_part():
    x = field(6, 4, 5, 32)
    ours = sp.prune(x, sp.PruneConfig(temporal_threshold=0.8, mask=None), backend="torch")
    assert torch.equal(peers.dtd(x, 0.8), ours.keep)


@pytest.mark.parametrize("windows", [True, False])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("frames", range(10))
def test_dycoke(frames, ratio, windows):
    x = field(9, 3, 4, 16)[:frames]
    expected = torch.ones(frames, 3, 4, dtype=torch.bool)
    for n in range(frames):
        if n % 2 == 1 or (windows and n % 4 == 2):
            base = x[n - 1] if n % 2 == 1 else x[n - 2]
            order = sorted(places(x), key=lambda p, n=n, base=base: cos(x[n][p], base[p]))
            expected[n] = False
            for p in order[: int((1 - ratio) * 12)]:
                expected[n][p] = True
    assert torch.equal(peers.dycoke(x, ratio, windows), expected)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.6, 1.0])
def test_vidcom2(x, ratio):
    t, h, w, d = x.shape
    rows = x.reshape(t, h * w, d).double()
    calm = rows.reshape(-1, d).var(0, correction=0).argsort()[: max(1, d // 2)]
    unit = torch.stack([row / row.norm() for row in rows[..., calm].reshape(t * h * w, -1)]).view(t, h * w, -1)

    def likeness(u: torch.Tensor, centre: torch.Tensor) -> float:
        return sum(math.exp(-float((u - centre).square().sum()) / (2 * a)) for a in (0.125, 0.25, 0.5, 1, 2))

    clip_centre = unit.reshape(t * h * w, -1).mean(0)
    to_clip = [[likeness(u, clip_centre) for u in frame] for frame in unit]
    weights = [-sum(row) / (h * w) / 0.01 for row in to_clip]
    shares = [math.exp(each - max(weights)) for each in weights]
    expected = torch.zeros(t, h * w, dtype=torch.bool)
    for n in range(t):
        share = shares[n] / sum(shares)
        budget = round(min(1.0, ratio * (1 + share - 1 / t)) * h * w)
        score = [a + likeness(u, unit[n].mean(0)) for a, u in zip(to_clip[n], unit[n], strict=True)]
        order = sorted(range(h * w), key=score.__getitem__)
        expected[n, order[: min(h * w, max(1, budget))]] = True
    assert torch.equal(peers.vidcom2(x, ratio), expected.view(t, h, w))


@pytest.mark.parametrize("keep", [0, 1, 2, 5, 1000])
def test_divprune(x, keep):
    rows = x.flatten(0, 2)
    distance = [[1 - cos(a, b) for b in rows] for a in rows]
    chosen: list[int] = []
    for _ in range(min(keep, len(rows))):
        best, best_distance = -1, -math.inf
        for i in range(len(rows)):
            nearest = min((distance[i][j] for j in (chosen or range(len(rows))) if j != i), default=math.inf)
            if i not in chosen and nearest > best_distance + 1e-6:
                best, best_distance = i, nearest
        chosen.append(best)
    assert peers.divprune(x, keep).flatten().nonzero().flatten().tolist() == sorted(chosen)


def test_divprune_keeps_as_many_copies_as_it_must():
    assert peers.divprune(torch.ones(2, 2, 2, 4), 5).sum() == 5


@pytest.mark.parametrize("r", [0, 1, 2, 100])
def test_tome_step(x, r):
    t, h, w, _ = x.shape
    keep, merged = peers.tome_step(x, r)
    count = min(r, h * w // 2)
    assert merged.shape == (t, h * w - count, x.shape[-1])
    for n in range(t):
        rows = x[n].flatten(0, 1)
        even, odd = range(0, h * w, 2), range(1, h * w, 2)
        best = {i: max(odd, key=lambda j, i=i, rows=rows: cos(rows[i], rows[j])) for i in even if len(odd)}
        order = sorted(best, key=lambda i, rows=rows, best=best: -cos(rows[i], rows[best[i]]))
        gone = order[:count]
        assert keep[n].flatten().tolist() == [i not in gone for i in range(h * w)]
        values = [rows[i] for i in order[count:]]
        values += [torch.stack([rows[j], *(rows[i] for i in gone if best[i] == j)]).mean(0) for j in odd]
        torch.testing.assert_close(merged[n], torch.stack(values) if count else rows)


@pytest.mark.parametrize("temporal", [None, 0.9, 0.99])
@pytest.mark.parametrize("spatial", [None, -1.0, 0.4, 0.7])
def test_sequential_mssavt(x, temporal, spatial):
    alive = torch.ones(x.shape[:3], dtype=torch.bool)
    for n in range(len(x)):
        for i, j in places(x):
            if n and temporal is not None and cos(x[n, i, j], x[n - 1, i, j]) > temporal:
                alive[n, i, j] = False
        for i, j in places(x):
            for p in neighbors(x, i, j):
                if spatial is not None and alive[n][p] and cos(x[n, i, j], x[n][p]) > spatial:
                    alive[n, i, j] = False
    assert torch.equal(peers.sequential_mssavt(x, temporal, spatial), alive)


def test_sequential_mssavt_drops_one_of_two_alike_where_the_parallel_unmasked_one_drops_both():
    """The paper's Figure 2: only the edge between (0, 2) and (1, 2) is above the threshold."""
    rows = torch.eye(6).view(1, 2, 3, 6)
    rows[0, 1, 2] = rows[0, 0, 2] + 0.4 * rows[0, 1, 2]
    assert peers.sequential_mssavt(rows, None, 0.85).flatten().tolist() == [True, True, False, True, True, True]
    both = sp.prune(rows, sp.PruneConfig(None, 0.85, mask="all"), backend="torch").keep
    assert both.flatten().tolist() == [True, True, False, True, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("thresholds", [(0.2, 0.5), (0.9, 0.7), (0.97, 1.0)])
def test_eager_step_is_our_step(x, thresholds, dtype):
    x = x.to(dtype)
    ours = sp.prune(x, sp.PruneConfig(*thresholds), backend="torch")
    step = peers.eager_step(x, *thresholds)
    assert torch.equal(step.keep, ours.keep)
    assert torch.equal(step.indices, ours.indices)
    assert torch.equal(step.tokens, ours.tokens)
    assert ours.carriers is not None
    torch.testing.assert_close(step.carriers, ours.carriers)


def test_eager_step_with_a_carried_frame():
    x = field(6, 3, 4, 24)
    whole = peers.eager_step(x, 0.9, 0.7).keep
    parts = [peers.eager_step(x[:4], 0.9, 0.7).keep, peers.eager_step(x[4:], 0.9, 0.7, x[3]).keep]
    assert torch.equal(torch.cat(parts), whole)
