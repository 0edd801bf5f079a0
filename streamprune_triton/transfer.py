"""Between the host and the device, and who waits for whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


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
    """Tensors of one device on the host: one copy of all their bytes, which it waits for."""
    if not tensors or tensors[0].is_cpu:
        return [each.detach() for each in tensors]
    aligned = sorted(range(len(tensors)), key=lambda n: -tensors[n].itemsize)
    packed = torch.cat([tensors[n].detach().reshape(-1).view(torch.uint8) for n in aligned])
    host = packed.to("cpu", non_blocking=packed.is_cuda)
    if packed.is_cuda:
        there = torch.cuda.current_stream(packed.device).record_event()
        there.synchronize()  # an event, so that torch's sync debug mode tells of all waits but this one
    parts = iter(host.split([tensors[n].nbytes for n in aligned]))
    found = {n: next(parts).view(tensors[n].dtype).view(tensors[n].shape) for n in aligned}
    return [found[n] for n in range(len(tensors))]


def on_host(function: Function) -> Function:
    """Inside it, a tensor made without a device is on the CPU, also under `torch.set_default_device`."""

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if torch.get_default_device().type == "cpu":
            return function(*args, **kwargs)
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return cast(Function, called)
