"""Peak memory of the reference: blocks of frames are computed at a time, so it is a small multiple of the features."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from features import field
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import streamprune_triton as sp


class Allocations(TorchDispatchMode):
    """The bytes of all storages that operators create under it and that are still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.now = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in given and storage._cdata not in self.live:
                    self._born(storage)
        return result

    def _born(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.live[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._died, key)

    def _died(self, key: int) -> None:
        self.now -= self.live.pop(key, 0)


def peak_of(call: Any) -> int:
    """The peak of the bytes allocated while calling."""
    with Allocations() as allocations:
        call()
    return allocations.peak


def test_the_meter_counts() -> None:
    """Three tensors of which two live at once; views and in-place writes cost nothing."""

    def call() -> None:
        a = torch.ones(1000)
        b = a + 1
        del a
        c = b * 2
        c.view(10, 100)[0].add_(1)

    assert peak_of(call) == 8000

    def chained() -> torch.Tensor:
        return ((torch.ones(1000) + 1) * 2).sum()

    assert 8000 <= peak_of(chained) <= 8004


SHAPE = (48, 24, 24, 256)
CONFIGS = {
    "defaults": {},
    "last_kept": {"reference": "last_kept", "temporal_threshold": 0.6},
    "kept": {"carrier": "kept", "temporal_threshold": 0.6},
    "nothing dropped": {"temporal_threshold": None, "spatial_threshold": None},
    "budget": {"keep_tokens": 100},
    "clip": {"keep_tokens": 2000, "scope": "clip"},
    "nothing but time": {"mask": None, "carrier": None},
}


@pytest.fixture(scope="module")
def long_clip() -> torch.Tensor:
    """Features much larger than the blocks that they are computed in."""
    return field((6, *SHAPE[1:]), redundancy=0.5, dtype=torch.bfloat16).repeat(8, 1, 1, 1)


@pytest.mark.parametrize("bad", [False, True], ids=["finite", "with a NaN"])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_peak_of_the_reference(long_clip: torch.Tensor, name: str, dtype: torch.dtype, bad: bool) -> None:
    """At most three times the features on top of them, the result included."""
    x = long_clip.to(dtype)
    if bad:
        x = x.clone()
        x[3, 2, 1, 0] = torch.nan
    peak = peak_of(lambda: sp.prune(x, sp.PruneConfig(**CONFIGS[name]), backend="torch").tokens)
    size = x.numel() * x.element_size()
    assert peak <= 3 * size, f"{peak / size:.2f} times the features"


def test_peak_is_of_a_block(long_clip: torch.Tensor) -> None:
    """Without the tokens, more frames need little more: what is computed with is a block, not a clip."""
    config = sp.PruneConfig(keep_tokens=0, carrier=None)
    part, whole = (peak_of(lambda x=x: sp.prune(x, config, backend="torch")) for x in (long_clip[:32], long_clip))
    assert whole - part < 0.25 * long_clip[32:].numel() * long_clip.element_size()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_peak_of_a_few_frames(frames: int, dtype: torch.dtype) -> None:
    """The bound holds for a single frame as well, with a token that is not finite in it."""
    x = field((frames, 16, 16, 3584)).to(dtype)
    x[0, 3, 3, 0] = torch.nan
    state = sp.prune(x[:1], backend="torch").state
    assert peak_of(lambda: sp.prune(x, state=state, backend="torch").tokens) <= 3 * x.nbytes
