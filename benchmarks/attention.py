"""`python3 -m benchmarks.attention`: what a number of keys costs that was not seen before, on a GPU.

A stream has other numbers of rows at each step, an answer at each token. Sessions keep torch from cuDNN's attention for
what it spends on each new one (`streamprune_triton.models.attention`). Where that is little they need not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from statistics import median

import torch
from torch.nn.functional import scaled_dot_product_attention

from streamprune_triton.models.attention import planless

ROWS, HEADS, WIDTH = 21, 28, 128  # new rows of a step, and the sizes of Qwen2.5-VL-7B
FIRST, LENGTHS = 300, 12  # keys


def main() -> int:
    if not torch.cuda.is_available():
        print("attention: needs a GPU", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    kinds: dict[str, Callable[[], AbstractContextManager[None]]] = {"as torch does": nullcontext, "planless": planless}
    for masked in (True, False):
        for name, inside in kinds.items():
            with inside():
                run(FIRST - 1, masked)
                new, seen = (_milliseconds(masked) for _ in range(2))
            print(f"{'masked' if masked else 'all seen'}, {name}: {new:.3f} ms a new length, {seen:.3f} ms a seen one")
    return 0


def _milliseconds(masked: bool) -> float:
    return 1e3 * median(run(FIRST + n, masked) for n in range(LENGTHS))


def run(length: int, masked: bool) -> float:
    """Seconds of one call, waited for."""
    q, k, v = (torch.randn(1, HEADS, n, WIDTH, device="cuda", dtype=torch.bfloat16) for n in (ROWS, length, length))
    mask = torch.ones(1, 1, ROWS, length, dtype=torch.bool, device="cuda") if masked else None
    torch.cuda.synchronize()
    start = time.perf_counter()
    scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
