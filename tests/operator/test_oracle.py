"""The backends against the oracle: the paper's worked example, every option, and the corner cases of the definition."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from features import INTERPRETED, MASKS, field, tensor_mask
from oracle import OracleState, is_candidate
from oracle import prune as oracle_prune
from tolerances import MARGIN, assert_agrees, assert_bits, padded

import streamprune_triton as sp

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NAN = float("nan")


def vectors_with_cosines(count: int, cosines: dict[tuple[int, int], float]) -> torch.Tensor:
    """`count` unit vectors (in fp64) with the given pairwise cosines; pairs not given are orthogonal."""
    gram = torch.eye(count, dtype=torch.float64)
    for (a, b), value in cosines.items():
        gram[a, b] = gram[b, a] = value
    eigenvalues, eigenvectors = torch.linalg.eigh(gram)
    assert eigenvalues.min() > -1e-12, "no vectors have these cosines"
    return eigenvectors * eigenvalues.clamp_min(0).sqrt()


def figure_two() -> torch.Tensor:
    """(1, 2, 3, 6) tokens with the edge cosines of the paper's Figure 2."""
    edges = {
        ((0, 0), (0, 1)): 0.4,
        ((0, 1), (0, 2)): 0.8,
        ((0, 0), (1, 0)): 0.4,
        ((0, 1), (1, 1)): 0.5,
        ((0, 2), (1, 2)): 0.9,
        ((1, 0), (1, 1)): 0.4,
        ((1, 1), (1, 2)): 0.6,
    }
    cosines = {(3 * i + j, 3 * p + q): value for ((i, j), (p, q)), value in edges.items()}
    # cosines across the diagonals are free; these leave a Gram matrix without negative eigenvalues
    cosines |= {(0, 2): 0.35, (3, 5): 0.3, (1, 5): 0.75, (2, 4): 0.55}
    cosines |= {(0, 4): 0.4, (1, 3): 0.4, (0, 5): 0.35, (2, 3): 0.3}
    return vectors_with_cosines(6, cosines).float().view(1, 2, 3, 6)


@pytest.mark.parametrize(
    ("mask", "dropped"),
    [
        ("checkerboard", [(1, 2)]),
        ("checkerboard_even", [(0, 2)]),
        ("all", [(0, 2), (1, 2)]),
        ("rows", [(1, 2)]),
        ("columns", []),
        ("alternate", [(1, 2)]),
        (None, []),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e15])
def test_figure_two(
    backend: str, device: torch.device, mask: str | None, dropped: list[tuple[int, int]], scale: float
) -> None:
    """The paper's Figure 2 (arXiv 2512.12560), with its numbers and not the oracle's; cosines do not see the scale."""
    config = sp.PruneConfig(spatial_threshold=0.85, mask=mask)
    result = sp.prune((figure_two() * scale).to(device), config, backend=backend)
    expected = [[0.4, 0.8, 0.9], [0.4, 0.6, 0.9]] if mask else [[NAN] * 3] * 2
    torch.testing.assert_close(result.spatial[0].cpu(), torch.tensor(expected), rtol=0, atol=1e-6, equal_nan=True)
    assert [tuple(place) for place in (~result.keep[0]).nonzero().tolist()] == dropped
    assert result.temporal.isnan().all()


def test_default_is_the_papers_operating_point(backend: str, device: torch.device) -> None:
    """Without a config: 0.2 in time, 0.5 in space, odd places, all of the grid, the previous frame, a carrier."""
    a, b, c = vectors_with_cosines(3, {(0, 1): 0.49, (1, 2): 0.51}).float()
    x = torch.stack([a, b, c]).view(1, 1, 3, 3).to(device)
    result = sp.prune(x, backend=backend)
    assert result.keep.flatten().tolist() == [True, False, True]  # only the middle one is a candidate, at 0.51
    basis = torch.eye(4)
    first = basis[[0, 1]].view(1, 1, 2, 4)
    second = torch.stack(
        [0.19 * basis[0] + math.sqrt(1 - 0.19**2) * basis[2], 0.21 * basis[1] + math.sqrt(1 - 0.21**2) * basis[3]]
    ).view(1, 1, 2, 4)
    x = torch.cat([first, second]).to(device)
    result = sp.prune(x, backend=backend)
    assert result.keep.tolist() == [[[True, True]], [[True, False]]]
    torch.testing.assert_close(result.carriers.cpu(), x.cpu().mean((1, 2)))


def robust_field(shape: tuple[int, int, int, int], options: dict[str, Any], dtype: torch.dtype) -> torch.Tensor:
    """Random tokens for which no decision is a close call, so that the oracle alone has the answer."""
    for seed in range(20):
        x = field(shape, redundancy=0.65, seed=seed, dtype=dtype)
        expected = oracle_prune(x, **options)
        if expected.margin > MARGIN and not expected.tied:
            return x
    raise AssertionError("no seed without a close call")


def named(options: dict[str, Any]) -> str:
    return ",".join(f"{k}={'tensor' if isinstance(v, torch.Tensor) else v}" for k, v in options.items()) or "default"


SHAPE = (3, 3, 4, 8) if INTERPRETED else (5, 5, 6, 16)
AREA = SHAPE[1] * SHAPE[2]
MASK = tensor_mask(*SHAPE[1:3], seed=3)
BASE = {"temporal_threshold": 0.7, "spatial_threshold": 0.4}  # leaves enough tokens for every option to matter
EVERY_OPTION = [
    {},
    *({"mask": MASK if mask == "tensor" else mask} for mask in MASKS),
    *({"mask": MASK, "neighbors": "survivors", "temporal_threshold": t} for t in (0.2, 0.5)),
    *({"temporal_threshold": t, "spatial_threshold": s} for t in (None, 0.6) for s in (None, 0.3)),
    *({"reference": "last_kept", "temporal_threshold": t} for t in (0.2, 0.5, 0.8)),
    *({"keyframe_interval": k} for k in (1, 2, 3)),
    *({"keep_tokens": k} for k in (0, 1, 5, AREA, AREA + 3)),
    *({"keep_tokens": k, "scope": "clip"} for k in (0, 1, 4, 2 * AREA, 9 * AREA)),
    *({"max_tokens": k, "temporal_threshold": 0.7, "spatial_threshold": 0.8} for k in (0, 1, 4, AREA + 1)),
    {"keep_tokens": 2 * AREA, "scope": "clip", "mask": None},
    {"carrier": "kept"},
    {"carrier": None},
    {"carrier": "kept", "keep_tokens": 0},
]
COMBINED = [
    dict(itertools.chain(a.items(), b.items(), c.items()))
    for a, b, c in itertools.product(
        [{"neighbors": "survivors"}, {"reference": "last_kept"}, {"neighbors": "survivors", "reference": "last_kept"}],
        [{"mask": "alternate"}, {"mask": "all", "keyframe_interval": 2}, {"mask": MASK, "carrier": "kept"}],
        [{}, {"keep_tokens": 5}, {"max_tokens": 4, "temporal_threshold": 0.8, "spatial_threshold": None}],
    )
]


@pytest.mark.parametrize("options", EVERY_OPTION + COMBINED, ids=named)
@pytest.mark.parametrize("dtype", [torch.float32] if INTERPRETED else DTYPES, ids=str)
def test_every_option(backend: str, device: torch.device, options: dict[str, Any], dtype: torch.dtype) -> None:
    options = BASE | options if options else {}
    x = robust_field(SHAPE, options, dtype).to(device)
    result = sp.prune(x, sp.PruneConfig(**options), backend=backend)
    assert_agrees(result, x, options, certain=True)


def test_options_make_a_difference() -> None:
    """The oracle on its own: the random tokens tell one option from another, so that agreeing means something."""
    x = field((5, 5, 6, 16), redundancy=0.65, seed=1)

    def kept(**options: Any) -> tuple[int, ...]:
        return tuple(oracle_prune(x, **options).indices)

    answers = {
        kept(**BASE | more)
        for more in (
            {},
            *({"mask": mask} for mask in ("checkerboard_even", "alternate", "rows", "columns", "all", None)),
            {"mask": tensor_mask(5, 6, 3)},
            {"neighbors": "survivors"},
            {"reference": "last_kept"},
            {"keyframe_interval": 2},
            {"keyframe_interval": 3},
            {"keep_tokens": 9},
            {"keep_tokens": 45, "scope": "clip"},
            {"max_tokens": 4},
            {"max_tokens": 4, "keyframe_interval": 2},
        )
    }
    assert len(answers) == 16


@pytest.mark.parametrize("mask", MASKS)
def test_oracles_masks(mask: str | None) -> None:
    """The oracle's candidates against a picture of each mask."""
    pictures = {
        "checkerboard": [".x.", "x.x"],
        "checkerboard_even": ["x.x", ".x."],
        "alternate": [".x.", "x.x"],
        "rows": ["...", "xxx"],
        "columns": [".x.", ".x."],
        "all": ["xxx", "xxx"],
        None: ["...", "..."],
        "tensor": ["x..", ".x."],
    }
    value = torch.tensor([[1, 0, 0], [0, 1, 0]], dtype=torch.bool) if mask == "tensor" else mask
    seen = ["".join(".x"[is_candidate(value, 0, i, j)] for j in range(3)) for i in range(2)]
    assert seen == pictures[mask]
    if mask == "alternate":
        assert "".join(".x"[is_candidate(mask, 1, 0, j)] for j in range(3)) == "x.x"


def test_thresholds_are_strict(backend: str, device: torch.device) -> None:
    """Similarities of exactly 0, 0.6 and 1, at thresholds of just that."""
    a, b, c = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.6, 0.8])
    for first, second, value in ((a, b, 0.0), (a, a, 1.0), (b, -b, -1.0), (a, torch.zeros(2), 0.0)):
        x = torch.stack([first, second]).view(2, 1, 1, 2).to(device)
        result = sp.prune(x, sp.PruneConfig(temporal_threshold=value), backend=backend)
        assert result.temporal.flatten()[1].item() == value
        assert result.keep.all(), f"{value} is not above {value}"
        if value > -1.0:
            below = sp.PruneConfig(temporal_threshold=value - 1e-6)
            assert not sp.prune(x, below, backend=backend).keep[1].any()
        x = torch.stack([first, second]).view(1, 1, 2, 2).to(device)
        config = sp.PruneConfig(spatial_threshold=value)
        assert sp.prune(x, config, backend=backend).keep.all()
    x = torch.stack([a, c]).view(2, 1, 1, 2).to(device)
    s_t = sp.prune(x, backend=backend).temporal.flatten()[1].item()
    assert s_t == pytest.approx(0.6, abs=1e-6)
    assert sp.prune(x, sp.PruneConfig(temporal_threshold=s_t), backend=backend).keep.all()
    # a threshold between two fp32 numbers counts as the nearer one
    assert sp.prune(x, sp.PruneConfig(temporal_threshold=s_t - 1e-9), backend=backend).keep.all()
    lower = torch.nextafter(torch.tensor(s_t), torch.tensor(-1.0)).item()
    assert not sp.prune(x, sp.PruneConfig(temporal_threshold=lower), backend=backend).keep[1].any()
    # nor is a neighbour of just that similarity dropped, for those whose similarity to survivors counts
    x = torch.stack([a, a, b, b]).view(2, 1, 2, 2).to(device)
    result = sp.prune(x, sp.PruneConfig(temporal_threshold=0.0, neighbors="survivors"), backend=backend)
    assert result.keep[1].flatten().tolist() == [True, False]


@pytest.mark.parametrize("scope", ["frame", "clip"])
@pytest.mark.parametrize("keep_tokens", [0, 1, 3, 5, 12, 13, 40])
def test_ties_go_to_the_lower_index(backend: str, device: torch.device, scope: str, keep_tokens: int) -> None:
    """All tokens are the same unit vector, so only missing parts and the order in the stream tell them apart."""
    x = torch.zeros(3, 3, 4, 8)
    x[..., 2] = 1.0
    options = {"keep_tokens": keep_tokens, "scope": scope, "mask": None}
    result = sp.prune(x.to(device), sp.PruneConfig(**options), backend=backend)
    if scope == "frame":
        expected = [12 * n + k for n in range(3) for k in range(min(keep_tokens, 12))]
    else:
        expected = list(range(min(keep_tokens, 36)))
    assert result.indices.tolist() == expected
    # on a checkerboard a first frame's redundancies are 0 and 1: those at even places come first
    options["mask"] = "checkerboard"
    result = sp.prune(x.to(device), sp.PruneConfig(**options), backend=backend)
    assert_agrees(result, x.to(device), options, certain=True)
    even = [4 * i + j for i in range(3) for j in range(4) if (i + j) % 2 == 0]
    assert result.indices[: min(keep_tokens, 6)].tolist() == even[: min(keep_tokens, 6)] or keep_tokens > 6


@pytest.mark.parametrize("max_tokens", [0, 1, 4, 11, 12, 13])
def test_cap_over_ties(backend: str, device: torch.device, max_tokens: int) -> None:
    """Nothing is dropped by a threshold of 1, so the cap alone decides, by index."""
    x = torch.zeros(2, 3, 4, 8, device=device)
    x[..., 0] = 1.0
    options = {"max_tokens": max_tokens, "temporal_threshold": 1.0, "spatial_threshold": None, "mask": "all"}
    result = sp.prune(x, sp.PruneConfig(**options), backend=backend)
    assert result.indices.tolist() == [12 * n + k for n in range(2) for k in range(min(max_tokens, 12))]


def test_redundancy_ranks_by_either_part(backend: str, device: torch.device) -> None:
    """keep_tokens ranks by the higher of the two similarities, the spatial one only where the mask has it."""
    e = torch.eye(6)

    def near(k: int, cos: float, other: int) -> torch.Tensor:
        return cos * e[k] + math.sqrt(1 - cos**2) * e[other]

    first = torch.stack([e[0], e[1], e[2]])
    second = torch.stack([near(0, 0.3, 3), near(3, 0.9, 1), near(2, 0.5, 4)])
    x = torch.stack([first, second]).view(2, 1, 3, 6).to(device)
    # second frame: s_t = .3, .436, .5; s_s = .859 for both of the first two, 0 for the third
    for mask, order in (("checkerboard", [0, 2, 1]), (None, [0, 1, 2]), ("all", [2, 0, 1])):
        for k in range(4):
            result = sp.prune(x, sp.PruneConfig(keep_tokens=k, mask=mask), backend=backend)
            kept = result.keep[1, 0].nonzero().flatten().tolist()
            if mask == "all" and k == 2:
                assert len(kept) == 2  # both of s_s = .859; which of the two is a matter of rounding
                assert 2 in kept
            else:
                assert kept == sorted(order[:k]), (mask, k)


def test_a_missing_part_counts_as_minus_one(backend: str, device: torch.device) -> None:
    """A first frame ranks by its spatial part alone, tokens that are no candidates by (s_s - 1) / 2."""
    x = vectors_with_cosines(3, {(0, 1): -0.5, (1, 2): -0.6, (0, 2): 0.9}).float().view(1, 1, 3, 3).to(device)
    result = sp.prune(x, sp.PruneConfig(keep_tokens=2), backend=backend)
    assert result.indices.tolist() == [0, 2]
    result = sp.prune(x, sp.PruneConfig(keep_tokens=1), backend=backend)
    assert result.indices.tolist() == [2]  # r = -.75, -.5, -.8
    x = torch.cat([x, -x])  # now every temporal part is -1, the spatial one of the middle still -.5
    for k, expected in ((2, [3, 5]), (3, [2, 3, 5]), (4, [0, 2, 3, 5])):
        result = sp.prune(x, sp.PruneConfig(keep_tokens=k, scope="clip"), backend=backend)
        assert result.indices.tolist() == expected


def test_a_budget_below_half_a_frame_is_spent_where_tokens_differ(backend: str, device: torch.device) -> None:
    """In a first frame that is all alike but for a few tokens on places that are no candidates, these stay."""
    x = torch.zeros(1, 6, 6, 16)
    x[..., 0] = 1.0
    places = [(0, 4), (3, 3), (5, 1)]
    for k, (i, j) in enumerate(places):
        x[0, i, j] = torch.eye(16)[k + 1]
    for scope in ("frame", "clip"):
        result = sp.prune(x.to(device), sp.PruneConfig(keep_tokens=3, scope=scope), backend=backend)
        assert result.indices.tolist() == [6 * i + j for i, j in places]


def test_slow_drift_vanishes_only_against_the_previous_frame(backend: str, device: torch.device) -> None:
    """A token that turns by 5 degrees a frame is never far from the last frame, but soon from the last kept one."""
    angle = torch.arange(40) * math.radians(5)
    x = torch.stack([angle.cos(), angle.sin()], -1).view(40, 1, 1, 2).to(device)
    previous = sp.prune(x, sp.PruneConfig(temporal_threshold=0.9), backend=backend)
    assert previous.indices.tolist() == [0]
    last_kept = sp.prune(x, sp.PruneConfig(temporal_threshold=0.9, reference="last_kept"), backend=backend)
    assert last_kept.indices.tolist() == list(range(0, 40, 6))  # 30 degrees: cos = .866


def test_survivors_bring_back_a_neighbour_of_the_dropped(backend: str, device: torch.device) -> None:
    """1 x 2: the left one repeats itself and goes; then the right one has no neighbour left that counts."""
    left, right = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.9, math.sqrt(1 - 0.81), 0.0])
    new = torch.tensor([0.0, 0.0, 1.0])
    x = torch.stack([torch.stack([left, new]), torch.stack([left, right])]).view(2, 1, 2, 3).to(device)
    grid = sp.prune(x, sp.PruneConfig(), backend=backend)
    assert grid.keep[1].flatten().tolist() == [False, False]
    survivors = sp.prune(x, sp.PruneConfig(neighbors="survivors"), backend=backend)
    assert survivors.keep[1].flatten().tolist() == [False, True]
    assert survivors.spatial[1].isnan().flatten().tolist() == [False, True]
    keyframes = sp.prune(x, sp.PruneConfig(neighbors="survivors", keyframe_interval=1), backend=backend)
    assert not keyframes.spatial.isnan().any()


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nonfinite_tokens(backend: str, device: torch.device, bad: float, dtype: torch.dtype) -> None:
    """Dropped whatever the mode, counted, and out of everything else."""
    x = torch.ones(3, 2, 2, 5, dtype=dtype)
    x[1, 0, 0, 3] = bad
    base = {"temporal_threshold": None, "spatial_threshold": None}
    budgets = ({"keep_tokens": 4}, {"max_tokens": 4}, {"keyframe_interval": 1}, {"reference": "last_kept"}, {})
    for more in budgets:
        result = sp.prune(x.to(device), sp.PruneConfig(**base, **more), backend=backend)
        assert result.indices.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11], more
        assert int(result.nonfinite) == 1
        assert result.temporal[1, 0, 0].isnan()
        assert result.spatial[1, 0, 0].isnan()
        assert result.spatial[1, 0, 1].item() == pytest.approx(1.0)
        assert result.temporal[2, 0, 0].isnan() == (more.get("reference") != "last_kept")
        assert torch.equal(result.carriers.cpu(), torch.ones(3, 5, dtype=dtype))
    # under "previous" nothing is dropped in time where the reference is not finite
    result = sp.prune(x.to(device), sp.PruneConfig(temporal_threshold=0.5, mask=None), backend=backend)
    assert result.indices.tolist() == [0, 1, 2, 3, 8]
    everything = torch.full((2, 2, 2, 5), bad, dtype=dtype, device=device)
    result = sp.prune(everything, sp.PruneConfig(keyframe_interval=1, carrier="kept"), backend=backend)
    assert result.tokens.shape == (0, 5)
    assert result.counts.tolist() == [0, 0]
    assert int(result.nonfinite) == 8
    assert torch.equal(result.carriers.cpu(), torch.zeros(2, 5, dtype=dtype))


@pytest.mark.parametrize("mask", ["all", "checkerboard", None])
def test_single_token_grid(backend: str, device: torch.device, mask: str | None) -> None:
    """A 1 x 1 grid has no neighbours: never dropped in space, its spatial similarity is NaN."""
    x = field((4, 1, 1, 8), redundancy=1.0).to(device)
    config = sp.PruneConfig(temporal_threshold=None, spatial_threshold=-1.0, mask=mask)
    result = sp.prune(x, config, backend=backend)
    assert result.keep.all()
    assert result.spatial.isnan().all()


def test_squared_norm_overflow(backend: str, device: torch.device) -> None:
    """Tokens too long for fp32 are like zero vectors, kept as they are, and not counted as non-finite."""
    x = torch.ones(2, 1, 2, 4, device=device)
    x[:, 0, 0] = 1e25
    for dtype, beside in ((torch.float32, 1.0), (torch.bfloat16, 1.0), (torch.float32, 2.0**50)):  # dots, too
        x[:, 0, 1] = beside
        result = sp.prune(x.to(dtype), sp.PruneConfig(mask="all"), backend=backend)
        assert result.temporal[1].flatten().tolist() == [0.0, 1.0]
        assert result.spatial.flatten().tolist() == [0.0] * 4
        assert result.keep.flatten().tolist() == [True, True, True, False]
        assert int(result.nonfinite) == 0
        assert_agrees(result, x.to(dtype), {"mask": "all"}, certain=True)


def test_short_vectors(backend: str, device: torch.device) -> None:
    """Below eps a vector's norm counts as eps: 1e-9 against itself is (1e-9 / 1e-8) squared."""
    x = torch.zeros(2, 1, 1, 3, device=device)
    x[..., 1] = 1e-9
    result = sp.prune(x, sp.PruneConfig(), backend=backend)
    assert result.temporal[1].item() == pytest.approx(0.01, rel=1e-4)
    x[1, ..., 1] = 1.0
    result = sp.prune(x, sp.PruneConfig(temporal_threshold=0.2), backend=backend)
    assert result.temporal[1].item() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("carrier", ["all", "kept"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_carrier_is_summed_in_fp32(backend: str, device: torch.device, carrier: str, dtype: torch.dtype) -> None:
    """256 tokens of 1 and one of 256: a sum in a short dtype would stop growing; in fp32 it is exact."""
    height, width = (3, 3) if INTERPRETED else (20, 20)
    x = torch.ones(1, height, width, 3, dtype=dtype, device=device)
    x[0, 0, 0] = 2048.0
    result = sp.prune(x, sp.PruneConfig(carrier=carrier, spatial_threshold=None), backend=backend)
    count = height * width
    expected = torch.full((1, 3), (2048.0 + count - 1) / count).to(dtype)
    torch.testing.assert_close(result.carriers.cpu(), expected, rtol=1e-6 if dtype == torch.float32 else 0, atol=0)


def test_kept_carrier_of_a_frame_without_kept_tokens(backend: str, device: torch.device) -> None:
    """The mean of all finite ones then."""
    x = field((2, 2, 3, 4), redundancy=0.2, seed=5)
    x[1, 0, 0] = NAN
    options = {"keep_tokens": 0, "carrier": "kept"}
    result = sp.prune(x.to(device), sp.PruneConfig(**options), backend=backend)
    assert not result.keep.any()
    torch.testing.assert_close(result.carriers[0].cpu(), x[0].mean((0, 1)))
    torch.testing.assert_close(result.carriers[1].cpu(), x[1].flatten(0, 1)[1:].mean(0))


KEYFRAME_BUDGETS = [{"keep_tokens": 2}, {"max_tokens": 2}, {"keep_tokens": 4, "scope": "clip"}]


@pytest.mark.parametrize("budget", KEYFRAME_BUDGETS, ids=named)
def test_keyframes_are_outside_the_budget(backend: str, device: torch.device, budget: dict[str, Any]) -> None:
    """Whole frames at 0, 3, 6 of the stream, however it is cut; the budget falls on the others."""
    x = field((7, 2, 3, 8), redundancy=0.7, seed=2).to(device)
    config = sp.PruneConfig(keyframe_interval=3, temporal_threshold=None, spatial_threshold=None, **budget)
    result = sp.prune(x, config, backend=backend)
    others = result.counts.cpu()[[1, 2, 4, 5]]
    assert result.counts[::3].tolist() == [6, 6, 6]
    assert int(others.sum()) == (4 if "scope" in budget else 8)
    pruner = sp.StreamPruner(config, backend=backend)
    counts = torch.cat([pruner(x[:2]).counts, pruner(x[2:4]).counts, pruner(x[4:]).counts])
    assert counts[::3].tolist() == [6, 6, 6]


@pytest.mark.parametrize("reference", ["previous", "last_kept"])
@pytest.mark.parametrize("capacity", [0, 1, 7, 20, 29, 1000])
def test_capacity(backend: str, device: torch.device, reference: str, capacity: int) -> None:
    """Tokens beyond the capacity, in order, are turned off everywhere, and are no references under last_kept."""
    options = {"reference": reference, "temporal_threshold": 0.6, "spatial_threshold": 0.7, "carrier": "kept"}
    for seed in range(2 if INTERPRETED else 6):
        x = field((4, 3, 3, 8), redundancy=0.5, seed=seed).to(device)
        config = sp.PruneConfig(**options)
        first = padded(x[:3], config, backend=backend, capacity=capacity)
        told = assert_agrees(first, x[:3], options, capacity=capacity)
        assert first.tokens.shape == (capacity, 8)
        assert first.indices.shape == (capacity,)
        second = padded(x[3:], config, backend=backend, capacity=capacity, state=first.state)
        assert_agrees(second, x[3:], options, capacity=capacity, state=told.state)
        if capacity == 1000:
            whole = sp.prune(x[:3], config, backend=backend)
            assert_bits(first.keep, whole.keep, "keep")


def test_nothing_kept_yet_is_no_reference(backend: str, device: torch.device) -> None:
    """last_kept: a place that never kept a token has nothing to compare with, for as long as it takes."""
    x = torch.ones(4, 1, 2, 3)
    x[:2, 0, 1] = NAN
    result = sp.prune(x.to(device), sp.PruneConfig(reference="last_kept", mask=None), backend=backend)
    assert result.temporal[:, 0, 1].isnan().tolist() == [True, True, True, False]
    assert result.keep[:, 0, 1].tolist() == [False, False, True, False]


def test_oracle_state_of_no_frames() -> None:
    """The oracle on its own: T = 0 changes nothing."""
    state = OracleState()
    result = oracle_prune(torch.zeros(0, 2, 2, 3), state=state)
    assert (result.state.frames, result.state.reference, result.indices, result.cu_counts) == (0, None, [], [0])
