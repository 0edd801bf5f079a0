"""The drop-ins of `streamprune_triton.compat` against the peers' formulas, computed here in fp64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from streamprune_triton.compat import compute_retained_tokens_count, compute_retention_mask, dtd

TIE = 1e-6  # similarities closer than this are a tie: fp32 may order them either way
MERGE = 2


def clip(*shape: int, change: float = 0.7, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(T, H, W, D): each frame is the one before, changed by noise of up to `change` times its size, place by place."""
    generator = torch.Generator().manual_seed(seed)
    frames = [torch.randn(shape[1:], generator=generator)]
    for _ in range(shape[0] - 1):
        share = change * torch.rand((*shape[1:3], 1), generator=generator)
        frames.append(frames[-1] + share * torch.randn(shape[1:], generator=generator))
    return torch.stack(frames).to(dtype)


def cosines(x: torch.Tensor) -> torch.Tensor:
    """(T - 1, H, W) float64: each token with its predecessor."""
    return F.cosine_similarity(x[1:].double(), x[:-1].double(), dim=-1)


def retention(x: torch.Tensor, q: float) -> torch.Tensor:
    """The drop-in's mask for x (T, H, W, D), as a grid."""
    t, h, w, d = x.shape
    return compute_retention_mask(x.reshape(-1, d), (t, h * MERGE, w * MERGE), MERGE, q).view(t, h, w)


def published(x: torch.Tensor, q: float) -> tuple[torch.Tensor, torch.Tensor]:
    """EVS's formula in the features' own dtype: (keep, the values it ranks the later frames by)."""
    t, h, w, _ = x.shape
    change = 1 - F.cosine_similarity(x[1:], x[:-1], dim=-1)
    ranked = torch.cat([torch.full((h * w,), 255.0, dtype=x.dtype), change.flatten()])
    keep = torch.zeros(t * h * w, dtype=torch.bool)
    keep[ranked.sort(descending=True, stable=True).indices[: max(h * w, int(t * h * w * (1 - q)))]] = True
    return keep.view(t, h, w), change


def assert_evs(keep: torch.Tensor, x: torch.Tensor, q: float, ties: float = TIE) -> None:
    """`keep` is EVS's decision about x at q, up to ties: the count, the first frame, the rest by similarity."""
    t, h, w, _ = x.shape
    assert keep.sum() == max(h * w, int(t * h * w * (1 - q)))
    assert keep[0].all()
    similarity, rest = cosines(x), keep[1:]
    if rest.any() and not rest.all():
        assert similarity[rest].max() <= similarity[~rest].min() + ties


@pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 0.75, 0.9, 0.99, 1.0])
@pytest.mark.parametrize(
    "x",
    [torch.randn(5, 4, 6, 48, generator=torch.Generator().manual_seed(1)), clip(6, 5, 7, 96), clip(9, 1, 1, 63)],
    ids=["random", "correlated", "one place"],
)
def test_evs_decides_by_the_formula(x, q):
    assert_evs(retention(x, q), x, q)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_evs_equals_the_published_arithmetic_in_fp32(dtype):
    x = clip(8, 6, 6, 128, seed=3).to(dtype)
    keep, change = published(x.float(), 0.6)
    spread = change.double().flatten().sort().values.diff()
    assert spread.min() > TIE / 10, "the case has ties"
    assert torch.equal(retention(x, 0.6), keep)


def test_evs_is_right_in_bf16_on_a_near_static_video():
    """There the published arithmetic knows 4 values for 2940 similarities, and keeps by place, not by change."""
    x = clip(16, 14, 14, 512, change=0.07, dtype=torch.bfloat16)
    degenerate, change = published(x, 0.75)
    assert change.unique().numel() <= 4
    right, _ = published(x.double(), 0.75)
    assert (degenerate != right).sum() > 500
    assert_evs(retention(x, 0.75), x, 0.75)
    assert (retention(x, 0.75) != right).sum() <= 2  # one pair within rounding


def test_evs_ties_go_to_the_lower_index():
    x = torch.ones(4, 2, 3, 8)
    assert retention(x, 0.6).flatten().nonzero().flatten().tolist() == list(range(9))


def test_evs_keeps_the_first_frame_even_before_opposite_tokens():
    first = torch.randn(1, 3, 3, 37, generator=torch.Generator().manual_seed(0))
    x = torch.cat([first, -3 * first, first])  # every cosine is -1, or rounded to less
    assert_evs(retention(x, 0.66), x, 0.66)
    assert retention(x, 0.66)[0].all()


def test_evs_with_zero_tokens():
    x = clip(3, 3, 3, 16)
    x[1, 1, 1] = 0
    x[2] = 0
    assert_evs(retention(x, 0.5), x, 0.5)


@pytest.mark.parametrize("q", [0.0, 0.5, 0.75, 1.0])
def test_evs_of_one_frame_drops_nothing(q):
    assert retention(clip(1, 4, 5, 16), q).all()


def test_evs_of_two_frames_at_three_quarters_drops_the_second():
    keep = retention(clip(2, 4, 5, 16), 0.75)
    assert keep[0].all()
    assert not keep[1].any()


def test_evs_extremes():
    x = clip(4, 3, 3, 16)
    assert retention(x, 0.0).all()
    assert retention(x, 1.0).sum() == 9
    assert retention(x, 1.0)[0].all()


def test_evs_of_no_frames():
    assert compute_retention_mask(torch.zeros(0, 8), (0, 4, 4), 2, 0.5).shape == (0,)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("q", [0.0, 0.5, 0.9])
def test_evs_counts_exactly_with_nonfinite_tokens(bad, q):
    x = clip(4, 3, 3, 16)
    x[0, 1, 1, 3] = bad
    x[2, :, 1, 0] = bad
    keep = retention(x, q)
    broken = ~x.isfinite().all(-1)
    assert keep.sum() == compute_retained_tokens_count(9, 4, q)
    assert not keep[broken].any() or keep[~broken].all()


def test_evs_takes_the_shapes_and_sizes_that_engines_hand_over():
    x = clip(4, 3, 5, 24)
    expected = retention(x, 0.5).flatten()
    assert expected.dtype == torch.bool
    assert expected.shape == (60,)
    for features, size, merge in (
        (x, (4, 3, 5), 1),
        (x.flatten(1, 2), [4, 6, 10], 2),
        (x.flatten(0, 2), torch.tensor([4, 6, 10]), 2),
        (x.flatten(0, 2), (4, 7, 11), 2),  # the merger rounds down
        (x.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0), (4, 6, 10), 2),
        (x.clone().requires_grad_(), (4, 6, 10), 2),
    ):
        keep = compute_retention_mask(features, size, merge, 0.5)
        assert torch.equal(keep, expected)
    keywords = {"video_embeds": x, "video_size_thw": (4, 6, 10), "spatial_merge_size": 2, "q": 0.5}
    assert torch.equal(compute_retention_mask(**keywords), expected)


@pytest.mark.parametrize("tokens", [1, 7, 196])
@pytest.mark.parametrize("frames", [0, 1, 2, 16])
@pytest.mark.parametrize("q", [0.0, 0.1, 0.7, 0.9, 1.0])
def test_the_count_is_known_beforehand(tokens, frames, q):
    kept = compute_retained_tokens_count(tokens_per_frame=tokens, num_frames=frames, q=q)
    assert kept == max(tokens, int(tokens * frames * (1 - q)))
    x = torch.randn(frames * tokens, 4, generator=torch.Generator().manual_seed(0))
    assert compute_retention_mask(x, (frames, 1, tokens), 1, q).sum() == (kept if frames else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tau", [-1.0, 0.2, 0.9, 1.0])
def test_dtd_decides_by_the_formula(tau, dtype):
    x = clip(6, 4, 5, 64, dtype=dtype)
    keep = dtd(x, tau)
    similarity = cosines(x)
    clear = (similarity - tau).abs() > TIE
    assert keep[0].all()
    assert torch.equal(keep[1:][clear], (similarity <= tau)[clear])


def test_dtd_is_right_where_bf16_rounds_the_similarity_to_the_threshold():
    x = clip(4, 8, 8, 256, change=0.12, dtype=torch.bfloat16)
    tau = 0.9965  # bf16 knows 0.9961 and 1.0 here
    similarity = cosines(x)
    clear = (similarity - tau).abs() > TIE
    rounded = F.cosine_similarity(x[1:], x[:-1], dim=-1) <= tau
    assert torch.equal(dtd(x, tau)[1:][clear], (similarity <= tau)[clear])
    assert (rounded != (similarity <= tau))[clear].any()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_dtd_in_chunks_with_the_previous_frame_is_dtd_in_one(size):
    x = clip(7, 4, 5, 64)
    previous, parts = None, []
    for chunk in x.split(size):
        parts.append(dtd(chunk, 0.9, previous))
        previous = chunk[-1]
    assert torch.equal(torch.cat(parts), dtd(x, 0.9))
    assert not dtd(x, 0.9).all()


def test_dtd_without_a_grid():
    x = clip(4, 3, 5, 24)
    rows = x.flatten(1, 2)
    assert torch.equal(dtd(rows, 0.9), dtd(x, 0.9).flatten(1))
    assert torch.equal(dtd(rows[2:], 0.9, rows[1]), dtd(x, 0.9).flatten(1)[2:])


def test_dtd_of_one_frame_and_of_none():
    x = clip(2, 3, 3, 8)
    assert dtd(x[:1], -1.0).all()
    assert not dtd(x[:1], 0.5, x[0]).any()
    assert dtd(x[:0], 0.5, x[0]).shape == (0, 3, 3)


X = torch.zeros(2, 4, 4, 8)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X.tolist(), (2, 4, 4), 1, 0.5), TypeError, "video_embeds must be a tensor, got list"),
        ((X, (2, 4, 5), 1, 0.5), ValueError, r"video_embeds must have 40 rows, 2 frames of 4 x 5 .* got shape \(2, 4"),
        ((X.flatten(), (2, 4, 4), 1, 0.5), ValueError, "video_embeds must have 32 rows"),
        ((X.long(), (2, 4, 4), 1, 0.5), TypeError, "video_embeds must be float32, bfloat16 or float16"),
        ((X[..., :0], (2, 4, 4), 1, 0.5), ValueError, "video_embeds must have H, W and D of at least 1"),
        ((X, (2, 16), 1, 0.5), ValueError, "video_size_thw must be three numbers"),
        ((X, torch.tensor([[2, 4, 4]]), 1, 0.5), ValueError, "video_size_thw must be three numbers"),
        ((X, (2, 4, -4), 1, 0.5), ValueError, "video_size_thw must be three numbers"),
        ((X, (2, 4, 4), 0, 0.5), ValueError, "spatial_merge_size must be at least 1, got 0"),
        ((X, (2, 4, 4), 1, 1.5), ValueError, r"q must be in \[0, 1\].* got 1.5"),
        ((X, (2, 4, 4), 1, -0.1), ValueError, r"q must be in \[0, 1\]"),
        ((X, (2, 4, 4), 1, float("nan")), ValueError, r"q must be in \[0, 1\]"),
        ((X, (2, 4, 4), 1, "a"), TypeError, "q must be a number, got str"),
        ((X, (2, 4, 4), 1.0, 0.5), TypeError, "spatial_merge_size must be an integer, got float"),
        ((X, (2, "4", 4), 1, 0.5), ValueError, "video_size_thw must be three numbers"),
        ((X, None, 1, 0.5), TypeError, "video_size_thw must be three numbers"),
    ],
)
def test_evs_names_what_is_wrong(arguments, error, message):
    with pytest.raises(error, match=message):
        compute_retention_mask(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X.tolist(), 0.5), TypeError, "features must be a tensor"),
        ((X[0, 0], 0.5), ValueError, r"features must have shape .* got \(4, 8\)"),
        ((X.long(), 0.5), TypeError, "features must be float32"),
        ((X, 1.5), ValueError, r"tau must be in \[-1, 1\], got 1.5"),
        ((X, -1.01), ValueError, r"tau must be in \[-1, 1\], got -1.01"),
        ((X, None), TypeError, "tau must be a number"),
        ((X, 0.5, X), ValueError, r"previous must have the shape of a frame of features, \(4, 4, 8\), got \(2, 4"),
        ((X, 0.5, X[0].half()), ValueError, "previous must have the dtype of a frame"),
        ((X, 0.5, X[0].tolist()), TypeError, "previous must be a tensor or None"),
    ],
)
def test_dtd_names_what_is_wrong(arguments, error, message):
    with pytest.raises(error, match=message):
        dtd(*arguments)


def test_numbers_of_any_type():
    expected = compute_retention_mask(X, (2, 4, 4), 1, 0.5)
    assert torch.equal(compute_retention_mask(X, (2.0, 4.0, 4.0), np.int64(1), np.float32(0.5)), expected)
    assert torch.equal(compute_retention_mask(X, np.array([2, 4, 4]), 1, 0.5), expected)
    assert torch.equal(dtd(X, np.float32(0.5)), dtd(X, 0.5))


@pytest.mark.parametrize(("tokens", "frames", "name"), [(-1, 2, "tokens_per_frame"), (4, -2, "num_frames")])
def test_the_count_names_what_is_wrong(tokens, frames, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 0"):
        compute_retained_tokens_count(tokens, frames, 0.5)
