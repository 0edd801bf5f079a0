"""A session keeps torch from cuDNN's attention as long as it computes, and no longer."""

from __future__ import annotations

import threading

import pytest
import unmodified
from streams import SOME, fed
from torch.backends.cuda import cudnn_sdp_enabled, enable_cudnn_sdp

from streamprune_triton.models.attention import planless


@pytest.mark.parametrize("before", [True, False])
def test_a_session_does_without(before: bool) -> None:
    model, processor = unmodified.build()
    seen: list[bool] = []
    for part in (model.model.visual, model.model.language_model):
        part.register_forward_pre_hook(lambda *_: seen.append(cudnn_sdp_enabled()))
    enable_cudnn_sdp(before)
    try:
        fed((model, processor), unmodified.film(4), 2, SOME)
        assert cudnn_sdp_enabled() == before
    finally:
        enable_cudnn_sdp(True)
    assert len(seen) > 3
    assert not any(seen)


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
