"""What a stream remembers between two calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False, repr=False)
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

    def __repr__(self) -> str:
        """Of what is known without a wait for the device."""
        return f"StreamState({_described(self.reference)} on {self.reference.device})"

    def clone(self) -> StreamState:
        """A copy that shares no memory with this state."""
        return StreamState(self.reference.clone(), self.squared_norms.clone(), self.frames.clone())

    def copy_(self, other: StreamState) -> StreamState:
        """Overwrites this state in place with `other`, as a replayed CUDA graph needs.

        Raises TypeError where it is no state, ValueError for another grid, D or dtype, and then changes nothing.
        """
        if not isinstance(other, StreamState):
            raise TypeError(f"other must be a StreamState, got {type(other).__name__}")
        had, got = _described(self.reference), _described(other.reference)
        if had != got:
            raise ValueError(f"other must be a state of {had}, got {got}")
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
        if not isinstance(tensors, Mapping):
            raise TypeError(f"state_dict must be a dict of tensors, got {type(tensors).__name__}")
        names = {"reference", "squared_norms", "frames"}
        if set(tensors) != names:
            got = ", ".join(sorted(map(str, tensors))) or "nothing"
            raise ValueError(f"state_dict must hold {', '.join(sorted(names))}, got {got}")
        state = cls(**tensors)
        state.check("state_dict")
        if state.frames < 0:
            raise ValueError(f"state_dict.frames must be at least 0, got {int(state.frames)}")
        return state

    def check(self, name: str) -> None:
        """Raises ValueError, TypeError where this cannot be a state; looks at no values. `name` is the argument's."""
        parts = (("reference", self.reference), ("squared_norms", self.squared_norms), ("frames", self.frames))
        for part, tensor in parts:
            if not isinstance(tensor, torch.Tensor):
                raise TypeError(f"{name}.{part} must be a tensor, got {type(tensor).__name__}")
            if tensor.device != self.reference.device:
                raise ValueError(f"{name}.{part} must be on {self.reference.device}, got {tensor.device}")
        reference, norms, frames = (tensor for _, tensor in parts)
        if reference.ndim != 3 or 0 in reference.shape or reference.dtype not in DTYPES:
            raise ValueError(f"{name}.reference must be floating (H, W, D), got {_described(reference)}")
        if norms.shape != reference.shape[:2] or norms.dtype != torch.float32:
            raise ValueError(f"{name}.squared_norms must be float32 (H, W), got {_described(norms)}")
        if frames.shape != () or frames.dtype != torch.int64:
            raise ValueError(f"{name}.frames must be int64 (), got {_described(frames)}")


def _described(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"
