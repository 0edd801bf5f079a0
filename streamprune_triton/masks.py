"""Who sees whom: the semantic-aware causal mask of VideoScan (arXiv 2503.09387), and what it comes from."""

from __future__ import annotations

from typing import Any

import torch

TEXT = -1  # the frame of a token of text
FOREVER = torch.iinfo(torch.int64).max


def semantic_mask(frames: torch.Tensor, carriers: torch.Tensor, *, recent_frames: int = 0, block: bool = False) -> Any:
    """The semantic-aware causal mask of sequences in which every frame's visual tokens are followed by its carrier.

    A token sees, of what stands before it: all text, the carriers of all frames, and the visual tokens of its own
    frame; a text token sees no frame's visual tokens. One forward under this mask is streaming prefill that evicts a
    frame's visual tokens once its carrier is read: for training, and to prove the streaming.

    Args:
        frames: (L,) or (B, L) int64, the number of the frame that a visual token or a carrier is of, counted from 0 in
            each sequence and never falling; -1 for text.
        carriers: (L,) or (B, L) bool, the carriers among them.
        recent_frames: so many newest frames stay visible with all of their tokens (hybrid memory).
        block: a FlexAttention BlockMask in place of a dense mask.

    Returns:
        (B, 1, L, L) bool, True where the row's token sees the column's, B = 1 for (L,), as SDPA takes it and as
        transformers' models take it for `attention_mask`; or the same as a BlockMask, on the device of `frames`.

    Raises:
        ValueError, TypeError: naming the argument; for numbers that fall or are too low only on the CPU, in eager mode.
    """
    frames, carriers = _checked(frames, carriers, recent_frames)
    time = _time(frames)
    dies = torch.where((frames == TEXT) | carriers, FOREVER, frames + 1 + recent_frames)
    if not block:
        return visible(time, dies)[:, None]
    return _block_mask(time, dies)


def visible(time: torch.Tensor, dies: torch.Tensor) -> torch.Tensor:
    """(..., Q, K) bool: which rows the new tokens see: those that still live, and of the new ones those before them.

    Args:
        time: (..., Q) int64, never falling: when each new token is read.
        dies: (..., K) int64, K >= Q: the first time at which a row is not seen any more; the last Q rows are those of
            the new tokens.
    """
    lives = dies[..., None, :] > time[..., :, None]
    past = dies.shape[-1] - time.shape[-1]
    return lives & torch.ones(lives.shape[-2:], dtype=torch.bool, device=lives.device).tril(past)


def _time(frames: torch.Tensor) -> torch.Tensor:
    """(B, L): a frame's own number; of text, how many frames began before it."""
    latest = frames.cummax(1).values
    return torch.where(frames == TEXT, latest + 1, frames)


def _block_mask(time: torch.Tensor, dies: torch.Tensor) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(b: torch.Tensor, _: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (k <= q) & (dies[b, k] > time[b, q])

    batch, length = time.shape
    return create_block_mask(sees, batch, None, length, length, device=str(time.device))


def _checked(frames: object, carriers: object, recent_frames: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as (B, L)."""
    if not isinstance(frames, torch.Tensor) or frames.dtype != torch.int64:
        raise TypeError(f"frames must be an int64 tensor, got {getattr(frames, 'dtype', type(frames).__name__)}")
    if frames.ndim not in (1, 2):
        raise ValueError(f"frames must be (L,) or (B, L), got {tuple(frames.shape)}")
    if not isinstance(carriers, torch.Tensor) or carriers.dtype != torch.bool:
        raise TypeError(f"carriers must be a bool tensor, got {getattr(carriers, 'dtype', type(carriers).__name__)}")
    if carriers.shape != frames.shape or carriers.device != frames.device:
        raise ValueError(
            f"carriers must have the shape and device of frames, {tuple(frames.shape)} on {frames.device}, "
            f"got {tuple(carriers.shape)} on {carriers.device}"
        )
    if isinstance(recent_frames, bool) or not isinstance(recent_frames, int) or recent_frames < 0:
        raise ValueError(f"recent_frames must be an integer of at least 0, got {recent_frames!r}")
    if frames.ndim == 1:
        frames, carriers = frames[None], carriers[None]
    if frames.is_cpu and frames.numel() and not torch.compiler.is_compiling():  # elsewhere it would wait for the device
        _check_order(frames)
    return frames, carriers


def _check_order(frames: torch.Tensor) -> None:
    if int(frames.min()) < TEXT:
        raise ValueError(f"frames must be at least 0, or {TEXT} for text, got {int(frames.min())}")
    fell = ((frames != TEXT) & (frames < frames.cummax(1).values)).nonzero()
    if len(fell):
        row, column = fell[0].tolist()
        latest = int(frames[row, :column].max())
        raise ValueError(f"frames must never fall, got {int(frames[row, column])} behind {latest} in sequence {row}")
