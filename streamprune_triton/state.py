"""What a stream remembers between two calls."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StreamState:
    """One reference frame and a frame counter: constant in size, whatever was seen before.

    Attributes:
        reference: (H, W, D), dtype of the features: the token that the next one at each place is compared with.
        squared_norms: (H, W) float32, its squared norms; NaN where a place has no reference.
        frames: () int64, the number of frames seen.
    """

    reference: torch.Tensor
    squared_norms: torch.Tensor
    frames: torch.Tensor

    def clone(self) -> StreamState:
        """A copy that shares no memory with this state."""
        return StreamState(self.reference.clone(), self.squared_norms.clone(), self.frames.clone())

    def copy_(self, other: StreamState) -> StreamState:
        """Overwrites this state in place with `other` (of the same shape), as a replayed CUDA graph needs."""
        self.reference.copy_(other.reference)
        self.squared_norms.copy_(other.squared_norms)
        self.frames.copy_(other.frames)
        return self

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors by name, for safetensors or torch.save."""
        return {"reference": self.reference, "squared_norms": self.squared_norms, "frames": self.frames}

    @classmethod
    def from_dict(cls, tensors: dict[str, torch.Tensor]) -> StreamState:
        """The state of a `state_dict()`. Raises ValueError for other names, shapes or dtypes."""
        names = {"reference", "squared_norms", "frames"}
        if set(tensors) != names:
            raise ValueError(f"state_dict must hold {', '.join(sorted(names))}, got {', '.join(sorted(tensors))}")
        state = cls(**tensors)
        if state.reference.ndim != 3 or state.reference.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"state_dict: reference must be floating (H, W, D), got {_described(state.reference)}")
        if state.squared_norms.shape != state.reference.shape[:2] or state.squared_norms.dtype != torch.float32:
            raise ValueError(f"state_dict: squared_norms must be float32 (H, W), got {_described(state.squared_norms)}")
        if state.frames.shape != () or state.frames.dtype != torch.int64:
            raise ValueError(f"state_dict: frames must be int64 (), got {_described(state.frames)}")
        return state


def _described(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"
