"""Between the host and the device, and who waits for whom."""

from __future__ import annotations

from collections.abc import Sequence

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


def download(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Tensors of one device on the host, which waits for them once."""
    queued = bool(tensors) and tensors[0].is_cuda
    host = [each.to("cpu", non_blocking=queued) for each in tensors]
    if queued:
        torch.cuda.current_stream(tensors[0].device).synchronize()
    return host
