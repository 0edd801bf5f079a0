"""A session keeps torch from cuDNN's attention as long as it computes, and no longer."""

from __future__ import annotations

import linecache
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.backends.cuda import cudnn_sdp_enabled, enable_cudnn_sdp

from streamprune_triton.models import attention
from streamprune_triton.models.attention import planless
from streamprune_triton.models.base import Adapter, inference


class Looking(Adapter):
    """Tells what torch may do while it computes."""

    @inference
    def look(self) -> bool:
        return cudnn_sdp_enabled()


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_session_on_a_gpu_does_without(device: str, gradients: bool, before: bool) -> None:
    """Not on another device, nor where a model is trained."""
    adapter = Looking.without_processor(SimpleNamespace(device=torch.device(device)))
    adapter.gradients = gradients
    enable_cudnn_sdp(before)
    try:
        assert adapter.look() == (before and (device == "cpu" or gradients))
        assert cudnn_sdp_enabled() == before
    finally:
        enable_cudnn_sdp(True)


@pytest.mark.parametrize("line", ["_inside.add", "_before = cuda", "_inside.discard", "cuda.enable_cudnn_sdp(_before)"])
def test_after_an_interrupt_the_next_one_gives_it_back(line: str) -> None:
    """Of what happens at a moment when nothing of it is undone."""

    with pytest.raises(KeyboardInterrupt):
        interrupted(line)
    with planless():
        assert not cudnn_sdp_enabled()
    assert cudnn_sdp_enabled()


def interrupted(text: str) -> None:
    """`planless` once, with a KeyboardInterrupt in front of the first line that holds the text."""

    def interrupt(frame: Any, event: str, _: Any) -> Any:
        if event == "line" and text in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
            sys.settrace(None)
            raise KeyboardInterrupt
        return interrupt

    tracing = sys.gettrace()
    sys.settrace(lambda frame, *_: interrupt if frame.f_code.co_filename == attention.__file__ else None)
    try:
        with planless():
            pass
    finally:
        sys.settrace(tracing)


def test_an_error_gives_it_back() -> None:
    with pytest.raises(ValueError, match="broken"), planless():
        raise ValueError("broken")
    assert cudnn_sdp_enabled()


def test_the_last_thread_gives_it_back() -> None:
    """Whoever came first may leave first."""
    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        with planless():
            entered.set()
            left.wait()

    thread = threading.Thread(target=other)
    with planless():
        thread.start()
        entered.wait()
    assert not cudnn_sdp_enabled()
    left.set()
    thread.join()
    assert cudnn_sdp_enabled()
