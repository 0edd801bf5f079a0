"""One pass over the features: squared norms, dot products and sums, in float32 and in blocks that bound the memory."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch

SLICE = 1 << 14  # summands at once: torch shares a longer sum out among threads where it is the only one
# features upcast at once: they and their products stay in a CPU's cache; elsewhere they only bound the memory
BLOCK_ELEMENTS, DEVICE_BLOCK_ELEMENTS = 3 << 17, 1 << 26


class Scores(NamedTuple):
    """What one pass over the features leaves of them."""

    squared_norms: torch.Tensor  # (T, H, W) float32; NaN marks a token with a non-finite value
    previous: torch.Tensor  # (T, H, W) dot product with the reference token
    right: torch.Tensor  # (T, H, W - 1) with the right neighbour
    down: torch.Tensor  # (T, H - 1, W) with the neighbour below
    means: torch.Tensor  # (T, D) float32, over the finite tokens of a frame; (0, D) where not asked for


def score(x: torch.Tensor, reference: torch.Tensor, spatial: bool, mean: bool) -> Scores:
    """Squared norms and dot products in float32, in strips of rows to bound the memory."""
    rows = _strip_rows(x)
    strips = [
        _strip(x[:, i : i + rows + int(spatial)], reference[i : i + rows], spatial) for i in range(0, x.shape[1], rows)
    ]
    squared_norms, previous, right, down, sums = zip(*strips, strict=True)
    norms = cat(squared_norms, 1)
    means = x.new_zeros((0, x.shape[3]))
    if mean:
        means = reduce(torch.add, sums) / (~norms.isnan()).flatten(1).sum(1).clamp_min(1)[:, None]
    return Scores(norms, cat(previous, 1), cat(right, 1), cat(down, 1), means)


def _strip(x: torch.Tensor, before: torch.Tensor, spatial: bool) -> tuple[torch.Tensor, ...]:
    """Norms, dots (as in Scores) and sums (T, D) of the first rows of x (T, R + 1, W, D) behind those `before` them.

    The last row is there to be compared with; there is none at the bottom of the grid.
    """
    rows, parts = len(before), []
    before = _upcast(before)[None]
    for block in x.split(max(1, _block_elements(x) // before.numel())):
        f = _upcast(block)
        own = f[:, :rows]
        previous = cat([dot(own[:1], before), dot(own[1:], own[:-1])] if len(own) > 1 else [dot(own, before)])
        before = own[-1:]
        norms = dot(own, own)
        right, down = [dot(a, b) for a, b in _edges(own, f)] if spatial else [norms[:, :0]] * 2
        if not _all(norms < torch.inf):
            norms = norms.masked_fill(~own.isfinite().all(-1), torch.nan)
            own = torch.where(norms.isnan()[..., None], 0.0, own)
        parts.append((norms, previous, right, down, total(own)))
    return tuple(map(cat, zip(*parts, strict=True)))


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
    """Dot products over the features: products, then their sum, whose order does not depend on the other sizes.

    Both are float32 under autocast as well, where `vecdot` is not.
    """
    return reduce(torch.add, [(p * q).sum(-1) for p, q in zip(a.split(SLICE, -1), b.split(SLICE, -1), strict=True)])


def total(f: torch.Tensor) -> torch.Tensor:
    """(T, D) sums over the tokens of f (T, H, W, D)."""
    return reduce(torch.add, [part.sum(1) for part in f.flatten(1, 2).split(SLICE, 1)])


def masked_mean(x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """(T, D) float32 means over the chosen tokens of each frame, 0 where none is chosen."""
    strips = zip(x.split(_strip_rows(x), 1), chosen.split(_strip_rows(x), 1), strict=True)
    sums = [total(torch.where(m[..., None], _upcast(f), 0.0)) for f, m in strips]
    return reduce(torch.add, sums) / chosen.flatten(1).sum(1).clamp_min(1)[:, None]


def _all(chosen: torch.Tensor) -> bool:
    """Whether all are known to be True: where that costs no wait for a device and breaks no graph."""
    return chosen.device.type == "cpu" and not torch.compiler.is_compiling() and bool(chosen.all())


def cat(parts: tuple[torch.Tensor, ...] | list[torch.Tensor], dim: int = 0) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)
