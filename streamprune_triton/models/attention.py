"""Which of torch's attention kernels read a stream."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch.backends import cuda

_lock = threading.Lock()
_inside, _before = 0, True  # callers, and what was allowed before the first of them: torch's switch is the process's


@contextmanager
def planless() -> Iterator[None]:
    """Inside it, scaled dot product attention does not go to cuDNN, which torch prefers on Hopper.

    cuDNN makes a plan for each number of queries and of keys, which takes longer than a step of a stream, and torch
    keeps the plan for good: a stream has other numbers at each step, and does not end. In every thread, as long as
    one is inside.
    """
    global _inside, _before
    with _lock:
        if not _inside:
            _before = cuda.cudnn_sdp_enabled()
            cuda.enable_cudnn_sdp(False)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                cuda.enable_cudnn_sdp(_before)
