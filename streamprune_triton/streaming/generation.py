"""How an answer's tokens are chosen: the part of `generate`'s arguments that a session takes, with its meaning."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from ..validate import count
from .graphs import capturing

ARGUMENTS = (
    "max_new_tokens",
    "eos_token_id",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
)
MAX_NEW_TOKENS = 256  # where neither the caller nor the model's generation_config says


@dataclass(frozen=True)
class Decoding:
    """Chooses tokens as `generate` does, one sequence, greedily or sampled.

    Not `generate` itself: handed a cache and M-RoPE positions it behaves differently from one transformers release to
    the next, and it leaves `rope_deltas` behind in the model, which several sessions may share.

    Attributes:
        max_new_tokens: at most so many.
        eos: the ids that end an answer.
        do_sample: sample, or take the likeliest.
        processors: a transformers LogitsProcessorList, applied to the logits first.
    """

    max_new_tokens: int
    eos: frozenset[int]
    do_sample: bool
    processors: Any

    @classmethod
    def of(cls, defaults: Any, **given: Any) -> Decoding:
        """From arguments of `generate`; what is not given comes from `defaults`, the model's generation_config.

        Raises:
            TypeError: for an argument that is not one of ARGUMENTS, or of another type than `generate` takes.
            ValueError: for a value outside of what `generate` allows.
        """
        for name in given:
            if name not in ARGUMENTS:
                raise TypeError(f"{name} is not taken here: generate_kwargs may be {', '.join(ARGUMENTS)}")

        def value(name: str, otherwise: Any) -> Any:
            found = given.get(name, getattr(defaults, name, None))
            return otherwise if found is None else found

        most, sample = value("max_new_tokens", MAX_NEW_TOKENS), value("do_sample", False)
        most = count("max_new_tokens", most, 1)
        if not isinstance(sample, bool):
            raise TypeError(f"do_sample must be a bool, got {sample!r}")
        ends = _ids(value("eos_token_id", ()))
        # `generate` has a default for what nobody says, and nothing in the place of a None that the caller says.
        top_k = value("top_k", None if "top_k" in given else 50)
        return cls(most, ends, sample, _processors(value, sample, top_k))

    def choose(self, logits: torch.Tensor, seen: torch.Tensor) -> int:
        """The next token, of logits (V,) behind the token ids `seen` (L,): waits for the device."""
        scores = self.processors(seen[None], logits[None].float())[0]
        if not self.do_sample:
            return int(scores.argmax())
        with capturing:
            drawn = torch.multinomial(scores.softmax(-1), 1)
        return int(drawn)


def _ids(given: Any) -> frozenset[int]:
    """Of one id, or of several in a list, a tensor or an array."""
    ids = given.tolist() if isinstance(given, (torch.Tensor, np.ndarray)) else given
    ids = ids if isinstance(ids, (list, tuple, set, frozenset)) else [ids]
    if any(isinstance(each, bool) or not isinstance(each, Integral) for each in ids):
        raise TypeError(f"eos_token_id must be an integer or several, got {given!r}")
    return frozenset(map(int, ids))


def _number(name: str, given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, Real):
        raise TypeError(f"{name} must be a number, got {type(given).__name__}")
    return float(given)


def _processors(value: Any, sample: bool, top_k: int | None) -> Any:
    """In the order of `generate`: the penalty, then, for a sample, temperature, top_k, top_p."""
    import transformers as hf

    processors = hf.LogitsProcessorList()
    penalty, temperature, top_p = (
        _number(name, value(name, 1.0)) for name in ("repetition_penalty", "temperature", "top_p")
    )
    if not penalty > 0:
        raise ValueError(f"repetition_penalty must be above 0, got {penalty}")
    if penalty != 1.0:
        processors.append(hf.RepetitionPenaltyLogitsProcessor(penalty=penalty))
    if sample and temperature != 1.0:
        processors.append(hf.TemperatureLogitsWarper(temperature))
    if sample and top_k is not None and (most := count("top_k", top_k, 0)):
        processors.append(hf.TopKLogitsWarper(most))
    if sample and top_p < 1.0:
        processors.append(hf.TopPLogitsWarper(top_p))
    return processors
