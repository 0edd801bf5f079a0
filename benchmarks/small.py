"""A few launches of every kernel, for a profiler (`--large`) or a sanitizer, which slow each of them down."""

from __future__ import annotations

import sys

import torch

import streamprune_triton as sp

from . import fields
from .cases import Case

CONFIGS = (
    sp.PruneConfig(),
    sp.PruneConfig(reference="last_kept", neighbors="survivors", carrier="kept"),
    sp.PruneConfig(keep_tokens=20, mask="alternate"),
)


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = [(1, 16, 16, 3584), (64, 16, 16, 3584)] if "--large" in sys.argv else [(3, 9, 13, 200)]
    for size in sizes:
        (x,) = fields.streams(Case(*size), torch.device(device), seed=0)
        for config in CONFIGS[: 1 if "--large" in sys.argv else None]:
            result = sp.prune([x, x[:1, :5]], config) if "--large" not in sys.argv else [sp.prune(x, config)]
            result[0].tokens.sum().item()
            sp.prune_padded(x, config, capacity=50, state=result[0].state).cu_counts.sum().item()


if __name__ == "__main__":
    main()
