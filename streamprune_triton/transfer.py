"""What goes to the device, and who waits for it."""

from __future__ import annotations

import torch


def upload(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """The tensor on a device, without waiting for it.

    From ordinary memory, CUDA copies once all work before has ended, and the host waits for both: a step's frames would
    come behind the whole step before. From pinned memory the copy is queued like a kernel; torch keeps the memory until
    it is done.
    """
    device = torch.device(device)
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
