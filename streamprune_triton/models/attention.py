"""Which of torch's attention kernels read a stream."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from torch.backends import cuda

_lock = threading.Lock()
_inside: weakref.WeakSet[_Caller] = weakref.WeakSet()
_before: bool | None = None  # what was allowed before the first of them; None while torch's switch is left alone


class _Caller:
    """Counts as long as it is held: one that an interrupt keeps from leaving goes with its frame."""


@contextmanager
def planless() -> Iterator[None]:
    """Inside it, scaled dot product attention does not go to cuDNN, which torch prefers on Hopper.

    cuDNN makes a plan for each number of queries and of keys, which may take longer than a step of a stream, and
    torch keeps the plan for good: a stream has other numbers at each step, and does not end. torch's switch is the
    process's, so that this holds in every thread, as long as one is inside.
    """
    caller = _Caller()
    try:
        _enter(caller)
        yield
    finally:
        _leave(caller)


def _enter(caller: _Caller) -> None:
    global _before
    with _lock:
        _inside.add(caller)
        if _before is None:
            _before = cuda.cudnn_sdp_enabled()
        cuda.enable_cudnn_sdp(False)


def _leave(caller: _Caller) -> None:
    global _before
    with _lock:
        _inside.discard(caller)
        if not _inside and _before is not None:
            cuda.enable_cudnn_sdp(_before)
            _before = None
