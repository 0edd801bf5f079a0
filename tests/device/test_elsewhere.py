"""The device itself: values as on the CPU, operands of one device, what the host waits for."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from elsewhere import NAME, Elsewhere

from streamprune_triton.transfer import upload


def test_values_are_those_of_the_cpu() -> None:
    x = torch.arange(12.0).view(3, 4)
    far = x.to(NAME)
    assert isinstance(far, Elsewhere)
    assert far.device.type == NAME
    far[1] = 5
    far[:, 2].add_(3)
    x[1] = 5
    x[:, 2].add_(3)
    assert torch.equal((far @ far.T).cpu(), x @ x.T)
    assert torch.equal(torch.arange(6, device=NAME).cpu(), torch.arange(6))
    assert torch.equal(torch.tensor([1, 2], device=NAME).cpu(), torch.tensor([1, 2]))


def test_gradients_are_those_of_the_cpu() -> None:
    layer, x = torch.nn.Linear(4, 2), torch.randn(3, 4)
    layer(x).square().sum().backward()
    expected = [each.grad.clone() for each in layer.parameters()]
    layer.zero_grad()
    layer.to(NAME)(x.to(NAME)).square().sum().backward()
    assert all(torch.equal(p.grad.cpu(), e) for p, e in zip(layer.parameters(), expected, strict=True))


def test_operands_are_of_one_device() -> None:
    far, x = torch.zeros(3, device=NAME), torch.zeros(3)
    for bad in (
        lambda: far + x,
        lambda: torch.cat([far, x]),
        lambda: x[far.long()],
        lambda: torch.where(far > 0, x, far),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            bad()
    assert (far + torch.tensor(1.0)).device.type == NAME, "a number may come from the CPU"
    with pytest.raises(TypeError, match="can't convert"):
        far.numpy()


def test_waits_are_written_down(waits: Counter[tuple[str, str]]) -> None:
    far = torch.arange(4, device=NAME)
    (far + 1).clone()[1:].sum()
    torch.zeros(2, device=NAME)
    upload(torch.zeros(3), NAME)
    assert not waits
    for work in (
        lambda: far.sum().item(),
        lambda: bool(far.any()),
        far.tolist,
        far.cpu,
        far.nonzero,
        lambda: far[far > 2],
        lambda: torch.zeros(3).to(NAME),
        lambda: far.copy_(torch.zeros(4)),
        lambda: torch.tensor([1.0], device=NAME),
    ):
        waits.clear()
        work()
        assert sum(waits.values()) == 1, waits
