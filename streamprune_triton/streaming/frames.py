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
        said = f"{name} must be an array or a tensor {shape} uint8, got {type(frame).__name__}"
        raise TypeError(f"{said}{_from_other(frame, name)}")
    if frame.dtype not in (np.uint8, torch.uint8):
        raise TypeError(f"{name} must be uint8, got {frame.dtype}{_from_floats(frame, name)}")
    if frame.ndim != rank or frame.shape[-1] != 3 or 0 in frame.shape[-3:]:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(frame.shape)}{_from_shape(frame, name, rank)}")
    return frame.cpu().numpy() if isinstance(frame, torch.Tensor) else frame


# What makes frames of what came, for messages


def _from_other(frame: object, name: str) -> str:
    if hasattr(frame, "__array_interface__") or hasattr(frame, "__array__"):
        return f": give np.asarray({name})"
    if isinstance(frame, (str, bytes)) or not hasattr(frame, "__iter__"):
        return ""
    return f": give np.asarray({name}, np.uint8)" if isinstance(frame, (list, tuple)) else f": give list({name})"


def _from_floats(frame: np.ndarray | torch.Tensor, name: str) -> str:
    if "float" not in str(frame.dtype):
        return ""
    cast = "to(torch.uint8)" if isinstance(frame, torch.Tensor) else "astype(np.uint8)"
    return f": of 0..1, give ({name} * 255).{cast}; of 0..255, {name}.{cast}"


def _from_shape(frame: np.ndarray | torch.Tensor, name: str, rank: int) -> str:
    shape, one = tuple(frame.shape), "[None]" if frame.ndim < rank else ""
    if frame.ndim not in (3, rank) or 0 in shape:
        return f": of gray, give np.stack([{name}] * 3, -1)" if frame.ndim == 2 < rank == 3 else ""
    if shape[-1] == 3:
        return f": one frame is {name}[None]"
    if shape[-3] == 3:
        order = (0, 2, 3, 1) if frame.ndim == 4 else (1, 2, 0)
        return f": give {name}.{'permute' if isinstance(frame, torch.Tensor) else 'transpose'}{order}{one}"
    if shape[-1] in (1, 4):
        return f": of RGBA, give {name}[..., :3]{one}" if shape[-1] == 4 else f": give {name}[..., [0, 0, 0]]{one}"
    return f": of gray, give np.stack([{name}] * 3, -1)" if frame.ndim < rank else ""
