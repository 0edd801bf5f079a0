"""Raw frames as users hand them over."""

from __future__ import annotations

import numpy as np
import torch


def checked(frames: object, waiting: np.ndarray | None, name: str = "frames") -> np.ndarray:
    """(N, height, width, 3) uint8, contiguous, of the size of those that wait.

    Args:
        frames: (N, height, width, 3) uint8, an array or a tensor, or a list of (height, width, 3).
        waiting: (n, height, width, 3) earlier frames of the stream, n maybe 0; None before the first.
        name: what messages call them.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    if isinstance(frames, (list, tuple)):
        each = [_array(frame, f"{name}[{n}]", 3) for n, frame in enumerate(frames)]
        for n, frame in enumerate(each):
            if frame.shape != each[0].shape:
                raise ValueError(f"{name} must have one size, got {each[0].shape} and {frame.shape} in {name}[{n}]")
        if not each:
            return np.empty((0, *(waiting.shape[1:] if waiting is not None else (1, 1, 3))), np.uint8)
        array = np.stack(each)
    else:
        array = _array(frames, name, 4)
    if waiting is not None and array.shape[1:] != waiting.shape[1:]:
        had, got = waiting.shape[1:3], array.shape[1:3]
        raise ValueError(f"{name} must keep the stream's size: {had[0]} x {had[1]} so far, got {got[0]} x {got[1]}")
    return np.ascontiguousarray(array)


def _array(frame: object, name: str, rank: int) -> np.ndarray:
    shape = "(N, height, width, 3)" if rank == 4 else "(height, width, 3)"
    if not isinstance(frame, (np.ndarray, torch.Tensor)):
        raise TypeError(f"{name} must be an array or a tensor {shape} uint8, got {type(frame).__name__}")
    if frame.dtype not in (np.uint8, torch.uint8):
        raise TypeError(f"{name} must be uint8, got {frame.dtype}")
    array = frame.cpu().numpy() if isinstance(frame, torch.Tensor) else frame
    if array.ndim != rank or array.shape[-1] != 3 or 0 in array.shape[-3:]:
        hint = ": one frame is frames[None]" if rank == 4 and array.ndim == 3 else ""
        raise ValueError(f"{name} must have shape {shape}, got {tuple(array.shape)}{hint}")
    return array
