"""What a cache holds of a pruned prompt: without this, a model takes the cache's length for the prompt's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import torch

_NAME = "_streamprune_past"  # on the cache, so that a copy of it knows, too
NO_GUESSES = "assisted decoding cannot be pruned"
_WRITES = ("update", "update_conv_state", "update_recurrent_state")  # methods of a cache
_BY_COLUMN = ("input_ids", "inputs_embeds", "token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True)
class Past:
    """The prompt's part of a cache. Columns behind it, of text, are as the model made them.

    Attributes:
        mask: (B, P) int64, 0 on padding: of the P columns in the cache.
        next: (B,) int64, the position of the first token behind the prompt.
        length: columns that the prompt had before it was pruned.
    """

    mask: torch.Tensor
    next: torch.Tensor
    length: int

    @classmethod
    def of(cls, cache: Any) -> Past | None:
        """None for a cache without a pruned prompt. Raises ValueError where a part of the prompt is gone from it."""
        past = getattr(cache, _NAME, None)
        if past is None or cache.get_seq_length() == 0:
            return None
        if cache.get_seq_length() < past.mask.shape[1]:
            raise ValueError(
                f"past_key_values must hold the whole pruned prompt ({past.mask.shape[1]} columns) or nothing, got "
                f"{cache.get_seq_length()}: {NO_GUESSES}"
            )
        return past

    def remember(self, cache: Any) -> None:
        setattr(cache, _NAME, self)
        shut(cache)

    def continued(self, inputs: dict[str, Any], guesses: bool) -> dict[str, Any]:
        """The model's arguments for more text behind the prompt, as if the prompt had been what the cache holds.

        generate() cuts off as many columns as the cache has, which is too few by those that were dropped.

        Args:
            inputs: the arguments.
            guesses: whether logits of several columns are wanted, as for the guesses of assisted decoding.

        Raises:
            ValueError: for arguments that do not fit the cache.
        """
        ids = inputs["input_ids" if inputs.get("input_ids") is not None else "inputs_embeds"]
        if len(ids) != len(self.mask):
            raise ValueError(f"past_key_values is of a batch of {len(self.mask)} prompts, the input of {len(ids)}")
        count, begin = ids.shape[1], inputs["past_key_values"].get_seq_length()
        new = self._new(inputs, count, begin - self.mask.shape[1])
        if new != count and (guesses or new < 1 or count - new != self.length - self.mask.shape[1]):
            raise ValueError(
                f"input_ids must go on where the cache of a pruned prompt ends, with {new} columns, got {count}: "
                f"{NO_GUESSES}"
            )
        cut = {name: inputs[name][:, count - new :] for name in _BY_COLUMN if inputs.get(name) is not None}
        return {**inputs, **cut, **cache_position(inputs, begin, new), **self._places(inputs, begin, new)}

    def _places(self, inputs: dict[str, Any], begin: int, new: int) -> dict[str, torch.Tensor]:
        """The mask (B, begin + new) and the positions (B, new) of what the cache really holds and of what follows."""
        if inputs.get("attention_mask") is None:
            behind = self.mask.new_ones(len(self.mask), begin - self.mask.shape[1] + new)
        else:
            behind = inputs["attention_mask"][:, self.length :].to(self.mask)
        positions = (self.next[:, None] + behind.cumsum(1) - 1)[:, -new:]
        return {"attention_mask": torch.cat([self.mask, behind], 1), "position_ids": positions}

    def _new(self, inputs: dict[str, Any], count: int, since: int) -> int:
        """How many of the columns are not in the cache yet, which has `since` behind the prompt."""
        mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
        if mask is not None:
            return check_mask(mask).shape[1] - self.length - since
        if positions is None or count == 1:
            return count
        if positions.ndim == 3 and len(positions) == 4:  # the first axis counts the columns
            return int((positions[0, 0] >= self.length + since).sum())
        first = positions[-1] if positions.ndim == 3 else positions
        return int((first[0] >= self.next[0] + since).sum())


def opened(cache: Any) -> Past | None:
    """As `Past.of`, of a cache that can be written to until it is `shut`. One that was emptied forgets its prompt."""
    past = Past.of(cache)
    if hasattr(cache, _NAME):
        for name in _WRITES:
            vars(cache).pop(name, None)
        if past is None:
            delattr(cache, _NAME)
    return past


def shut(cache: Any) -> None:
    """A cache of a pruned prompt, or a copy of it, is read by all but written to by nobody who does not open it."""
    if hasattr(cache, _NAME):
        vars(cache).update((name, _refuse) for name in _WRITES if hasattr(cache, name))


def _refuse(*_: Any, **__: Any) -> NoReturn:
    """Stands in for the cache's own methods; it holds on to nothing, and so is copied and pickled as it is."""
    raise ValueError(
        "past_key_values must not hold a pruned prompt here: hand it to the model inside of `pruned`, or begin anew"
    )


def check_mask(mask: Any) -> torch.Tensor:
    """Raises ValueError for a mask that is not (B, L)."""
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
        got = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise ValueError(f"attention_mask must be (B, L) or None where videos are pruned, got {got}")
    return mask


def cache_position(given: dict[str, Any], begin: int, count: int) -> dict[str, torch.Tensor]:
    """That argument of older releases, where it was given."""
    old = given.get("cache_position")
    return {} if old is None else {"cache_position": torch.arange(begin, begin + count, device=old.device)}


def next_position(positions: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(B,) int64 behind a prompt of positions (B, L) or (A, B, L), the last three axes those of M-RoPE."""
    furthest = positions[-3:].amax(0) if positions.ndim == 3 else positions
    return furthest.masked_fill(~valid, -1).amax(1) + 1
