"""The pruning step in plain PyTorch: the specification that the kernels are tested against, and the CPU path.

Shapes: T frames of H x W tokens with D features. NaN in a similarity means that there was nothing to compare with.
"""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch

from .rule import Rule

EPS = 1e-8
SLICE = 1 << 14  # features summed at once: torch shares a longer sum out among threads where it is the only one
# features upcast at once: they and their products stay in a CPU's cache; elsewhere they only bound the memory
BLOCK_ELEMENTS, DEVICE_BLOCK_ELEMENTS = 3 << 17, 1 << 26


class Scores(NamedTuple):
    """What one pass over the features leaves of them."""

    squared_norms: torch.Tensor  # (T, H, W) float32; NaN marks a token with a non-finite value
    previous: torch.Tensor  # (T, H, W) dot product with the reference token
    right: torch.Tensor  # (T, H, W - 1) with the right neighbour
    down: torch.Tensor  # (T, H - 1, W) with the neighbour below
    means: torch.Tensor  # (T, D) float32, over the finite tokens of a frame; (0, D) where not asked for


class Pruned(NamedTuple):
    """One stream's results; tokens and indices have `capacity` rows, the first counts.sum() of them written."""

    tokens: torch.Tensor
    indices: torch.Tensor
    keep: torch.Tensor
    counts: torch.Tensor
    cu_counts: torch.Tensor
    carriers: torch.Tensor
    temporal: torch.Tensor
    spatial: torch.Tensor
    nonfinite: torch.Tensor
    overflow: torch.Tensor
    reference: torch.Tensor
    squared_norms: torch.Tensor
    frames: torch.Tensor


def prune(
    x: torch.Tensor,
    reference: torch.Tensor | None,
    squared_norms: torch.Tensor | None,
    frames: torch.Tensor | None,
    rule: Rule,
    capacity: int,
) -> Pruned:
    """Prunes the frames `x` (T, H, W, D) of one stream, given its state: score, decide, compact."""
    t, h, w, d = x.shape
    if reference is None or squared_norms is None or frames is None:
        reference = x.new_zeros(h, w, d)
        squared_norms = x.new_full((h, w), torch.nan, dtype=torch.float32)
        frames = torch.zeros((), dtype=torch.int64, device=x.device)

    step = 1 if rule.last_kept else max(t, 1)  # last_kept: each frame is decided before the next is compared
    decided, means = [], []
    room = torch.full((), capacity, dtype=torch.int64, device=x.device)
    overflow = torch.zeros((), dtype=torch.bool, device=x.device)
    for start in range(0, t, step):
        window = x[start : start + step]
        scores = score(window, reference, rule.mask_kind != "none", rule.carrier == "all")
        keep, temporal, spatial = decide(scores, squared_norms, frames + start, rule)
        rank = keep.flatten().cumsum(0).view_as(keep)
        fits = keep & (rank <= room)
        overflow = overflow | (fits != keep).any()
        room = room - fits.sum()
        reference, squared_norms = next_reference(window, fits, scores, reference, squared_norms, rule)
        decided.append((fits, temporal, spatial, scores.squared_norms.isnan()))
        means.append(scores.means)

    empty = (x.new_zeros((0, h, w), dtype=torch.bool),) + (x.new_zeros((0, h, w), dtype=torch.float32),) * 2
    keep, temporal, spatial, bad = map(_cat, zip(*(decided or [(*empty, empty[0])]), strict=True))
    counts = keep.flatten(1).sum(1, dtype=torch.int32)
    tokens, indices = compact(x, keep, capacity)
    return Pruned(
        tokens,
        indices,
        keep,
        counts,
        torch.nn.functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0)),
        carriers(x, keep, ~bad, _cat(means) if means else x.new_zeros((0, d)), rule.carrier),
        temporal,
        spatial,
        bad.sum(),
        overflow,
        reference.clone(memory_format=torch.contiguous_format),
        squared_norms.clone(),
        frames + t,
    )


def score(x: torch.Tensor, reference: torch.Tensor, spatial: bool, mean: bool) -> Scores:
    """Squared norms and dot products in float32, in strips of rows to bound the memory."""
    rows = _strip_rows(x)
    strips = [
        _strip(x[:, i : i + rows + spatial], reference[i : i + rows], spatial) for i in range(0, x.shape[1], rows)
    ]
    squared_norms, previous, right, down, sums = zip(*strips, strict=True)
    norms = _cat(squared_norms, 1)
    means = x.new_zeros((0, x.shape[3]))
    if mean:
        means = reduce(torch.add, sums) / (~norms.isnan()).flatten(1).sum(1).clamp_min(1)[:, None]
    return Scores(norms, _cat(previous, 1), _cat(right, 1), _cat(down, 1), means)


def _strip(x: torch.Tensor, before: torch.Tensor, spatial: bool) -> tuple[torch.Tensor, ...]:
    """Norms, dots (as in Scores) and sums (T, D) of the first rows of x (T, R + 1, W, D) behind those `before` them.

    The last row is there to be compared with; there is none at the bottom of the grid.
    """
    rows, parts = len(before), []
    before = _upcast(before)[None]
    for block in x.split(max(1, _block_elements(x) // before.numel())):
        f = _upcast(block)
        own = f[:, :rows]
        previous = _cat([dot(own[:1], before), dot(own[1:], own[:-1])] if len(own) > 1 else [dot(own, before)])
        before = own[-1:]
        norms = dot(own, own)
        right, down = [dot(a, b) for a, b in _edges(own, f)] if spatial else [norms[:, :0]] * 2
        if not _all(norms < torch.inf):
            norms = norms.masked_fill(~own.isfinite().all(-1), torch.nan)
            own = torch.where(norms.isnan()[..., None], 0.0, own)
        parts.append((norms, previous, right, down, own.flatten(1, 2).sum(1)))
    return tuple(map(_cat, zip(*parts, strict=True)))


def _strip_rows(x: torch.Tensor) -> int:
    """How many rows of a frame are upcast at once: never by the number of frames, as sums are added up by strips."""
    return max(1, min(x.shape[1], _block_elements(x) // max(1, x.shape[2] * x.shape[3])))


def _block_elements(x: torch.Tensor) -> int:
    """How many features are upcast at once; all where a compiler fuses it, which would unroll every block."""
    if torch.compiler.is_compiling():
        return x.numel()
    return BLOCK_ELEMENTS if x.device.type == "cpu" else DEVICE_BLOCK_ELEMENTS


def _upcast(x: torch.Tensor) -> torch.Tensor:
    """x in float32 and contiguous: the order of a sum follows the layout."""
    return x.float().contiguous()


def _edges(
    own: torch.Tensor, f: torch.Tensor
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """The tokens with a right neighbour and these, the tokens with one below and these."""
    return (own[:, :, :-1], own[:, :, 1:]), (f[:, :-1], f[:, 1:])


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Dot products over the features: products, then their sum, whose order does not depend on the other sizes."""
    if a.shape[-1] <= SLICE:
        return torch.linalg.vecdot(a, b)
    return reduce(torch.add, map(torch.linalg.vecdot, a.split(SLICE, -1), b.split(SLICE, -1)))


def masked_mean(x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """(T, D) float32 means over the chosen tokens of each frame, 0 where none is chosen."""
    strips = zip(x.split(_strip_rows(x), 1), chosen.split(_strip_rows(x), 1), strict=True)
    sums = [torch.where(m[..., None], _upcast(f), 0.0).flatten(1, 2).sum(1) for f, m in strips]
    return reduce(torch.add, sums) / chosen.flatten(1).sum(1).clamp_min(1)[:, None]


def cosine(dots: torch.Tensor, squared_a: torch.Tensor, squared_b: torch.Tensor) -> torch.Tensor:
    """cos(a, b) = a.b / (max(|a|, eps) * max(|b|, eps)), in [-1, 1].

    NaN where a or b is not finite; 0 where a squared norm overflows float32, as for a zero vector.
    """
    cos = (dots / (squared_a.sqrt().clamp_min(EPS) * squared_b.sqrt().clamp_min(EPS))).clamp(-1, 1)
    cos = cos.masked_fill(squared_a.isinf() | squared_b.isinf(), 0.0)
    return cos.masked_fill(squared_a.isnan() | squared_b.isnan(), torch.nan)


def decide(
    scores: Scores, reference_norms: torch.Tensor, first_frame: torch.Tensor, rule: Rule
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(keep, temporal, spatial), each (T, H, W), of frames that follow `first_frame` frames of their stream."""
    norms = scores.squared_norms
    t, h, w = norms.shape
    numbers = first_frame + torch.arange(t, device=norms.device)
    temporal = cosine(scores.previous, norms, torch.cat([reference_norms[None], norms[:-1]]))
    finite = ~norms.isnan()
    keyframe = torch.zeros_like(finite)
    if rule.keyframe_interval:
        keyframe = keyframe | (numbers % rule.keyframe_interval == 0)[:, None, None]

    drop_temporal = (temporal > rule.temporal_threshold) & ~keyframe
    survivor = ~drop_temporal if rule.survivors else torch.ones_like(finite)
    candidate = candidates(h, w, numbers, rule)
    spatial = torch.full_like(temporal, torch.nan)
    if rule.mask_kind != "none":
        spatial = highest_neighbor(scores, survivor)
    keep = finite & (keyframe | ~(drop_temporal | (candidate & (spatial > rule.spatial_threshold))))

    if rule.keep_tokens >= 0 or rule.max_tokens >= 0:
        redundancy = redundancies(temporal, spatial, candidate)
        budget = rule.keep_tokens if rule.keep_tokens >= 0 else rule.max_tokens
        segments = (1, -1) if rule.clip else (t, -1)
        chosen = least_redundant(redundancy.reshape(segments), (keep & ~keyframe).reshape(segments), budget)
        keep = chosen.view_as(keep) | (keep & keyframe)
    return keep, temporal, spatial


def highest_neighbor(scores: Scores, survivor: torch.Tensor) -> torch.Tensor:
    """s_s: the highest cosine to a surviving, finite 4-neighbour; NaN without one."""
    norms = scores.squared_norms
    right = cosine(scores.right, norms[:, :, :-1], norms[:, :, 1:]).nan_to_num(nan=-torch.inf)
    down = cosine(scores.down, norms[:, :-1], norms[:, 1:]).nan_to_num(nan=-torch.inf)
    best = torch.full_like(norms, -torch.inf)
    for here, there, edge in (
        (best[:, :, :-1], survivor[:, :, 1:], right),
        (best[:, :, 1:], survivor[:, :, :-1], right),
        (best[:, :-1], survivor[:, 1:], down),
        (best[:, 1:], survivor[:, :-1], down),
    ):
        here.copy_(here.maximum(edge.masked_fill(~there, -torch.inf)))
    return best.masked_fill(best.isinf(), torch.nan)


def candidates(h: int, w: int, numbers: torch.Tensor, rule: Rule) -> torch.Tensor:
    """(T, H, W) bool: which tokens the spatial stage may drop; `numbers` (T,) count the stream's frames."""
    i = torch.arange(h, device=numbers.device)[:, None]
    j = torch.arange(w, device=numbers.device)[None, :]
    n = numbers[:, None, None]
    by_name = {
        "checkerboard": (i + j) % 2 == 1,
        "checkerboard_even": (i + j) % 2 == 0,
        "alternate": (i + j + n) % 2 == 1,
        "rows": i % 2 == 1,
        "columns": j % 2 == 1,
        "all": i >= 0,
        "none": i < 0,
        "tensor": rule.mask,
    }
    mask = by_name[rule.mask_kind]
    assert mask is not None
    return mask.expand(len(numbers), h, w)


def redundancies(temporal: torch.Tensor, spatial: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
    """(T, H, W) what a budget ranks by: r = max(s_t, s_s where candidate), a missing part counts as -1.

    Without s_t a token that is no candidate has r = (s_s - 1) / 2: it goes after candidates as like their neighbours.
    """
    beside = spatial.nan_to_num(nan=-1.0)
    alone = torch.where(temporal.isnan(), (beside - 1) * 0.5, -1.0)
    return temporal.nan_to_num(nan=-1.0).maximum(torch.where(candidate, beside, alone))


def least_redundant(redundancy: torch.Tensor, eligible: torch.Tensor, budget: int) -> torch.Tensor:
    """(S, N) bool: in each of S segments the `budget` eligible tokens of least redundancy, ties to the lower index."""
    order = redundancy.masked_fill(~eligible, torch.inf).argsort(dim=1, stable=True)[:, :budget]
    chosen = torch.zeros_like(eligible).scatter_(1, order, torch.ones_like(order, dtype=torch.bool))
    return chosen & eligible


def next_reference(
    x: torch.Tensor,
    keep: torch.Tensor,
    scores: Scores,
    reference: torch.Tensor,
    squared_norms: torch.Tensor,
    rule: Rule,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The token that the next frame is compared with at each place, and its squared norm."""
    if not rule.last_kept:
        return x[-1], scores.squared_norms[-1]
    last = keep[-1]
    return torch.where(last[..., None], x[-1], reference), torch.where(last, scores.squared_norms[-1], squared_norms)


def carriers(
    x: torch.Tensor, keep: torch.Tensor, finite: torch.Tensor, means: torch.Tensor, carrier: str
) -> torch.Tensor:
    """(T, D): one semantic carrier a frame (VideoScan, section 3.1), or (0, D) for carrier "none"."""
    if carrier == "none":
        return x.new_zeros((0, x.shape[-1]))
    if carrier == "all" or not len(x):
        return means.to(x.dtype)
    chosen = torch.where(keep.flatten(1).any(1)[:, None, None], keep, finite)
    return torch.cat([masked_mean(f, m) for f, m in zip(x.split(1), chosen.split(1), strict=True)]).to(x.dtype)


def compact(x: torch.Tensor, keep: torch.Tensor, capacity: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The kept tokens (capacity, D) and their indices into T*H*W, in raster-then-time order."""
    kept = keep.flatten().nonzero().squeeze(1)
    indices = kept.new_empty(capacity)
    indices[: len(kept)] = kept
    tokens = x.new_empty((capacity, x.shape[-1]))
    torch.index_select(x.reshape(-1, x.shape[-1]), 0, kept, out=tokens[: len(kept)])
    return tokens, indices


def _all(chosen: torch.Tensor) -> bool:
    """Whether all are known to be True: where that costs no wait for a device and breaks no graph."""
    return chosen.device.type == "cpu" and not torch.compiler.is_compiling() and bool(chosen.all())


def _cat(parts: tuple[torch.Tensor, ...] | list[torch.Tensor], dim: int = 0) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)
