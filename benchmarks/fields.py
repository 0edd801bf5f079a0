"""Features to time on: a correlated field whose drop ratio is set, not white noise."""

from __future__ import annotations

import torch

from .cases import DTYPES, Case


def streams(case: Case, device: torch.device, seed: int = 0) -> list[torch.Tensor]:
    """(T + 1, H, W, D) for each stream of the case; the first frame is the one seen before."""
    return [stream(case, grid, device, seed * 1000 + b) for b, grid in enumerate(case.grids)]


def stream(case: Case, grid: tuple[int, int], device: torch.device, seed: int) -> torch.Tensor:
    """Frames of a grid (H, W) whose tokens repeat the frame before with probability `drop`, and else are new.

    A repeated token comes with a little noise (cosine about 0.99). A new one has a part in common with the whole
    frame, so that neighbours are correlated (cosine about 0.25) but not redundant at the default thresholds.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device)

    frames = torch.empty((case.t + 1, *grid, case.d), dtype=DTYPES[case.dtype], device=device)
    token = 0.5 * normal(1, 1, case.d) + 0.87 * normal(*grid, case.d)
    frames[0] = token
    for n in range(1, case.t + 1):
        fresh = torch.rand(grid, generator=generator, device=device) >= case.drop
        # the sign of what a frame has in common turns, so that a new token is unlike the one before it
        new = 0.5 * normal(1, 1, case.d) + 0.87 * normal(*grid, case.d)
        token = torch.where(fresh[..., None], new, token)
        frames[n] = token + 0.1 * normal(*grid, case.d)
    return frames
