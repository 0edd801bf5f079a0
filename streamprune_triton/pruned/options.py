"""What generate() may not be told where videos are pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from .calls import named

_GUESSES = "rejected guesses are cut from a cache whose length is not the prompt's"
_REFUSED = {
    **dict.fromkeys(("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp"), _GUESSES),
    "prefill_chunk_size": "a video is pruned as a whole",
}


@contextmanager
def checked(model: Any, check: Callable[[Any, dict[str, Any]], None]) -> Iterator[None]:
    """Inside, the model's generate() begins with a check of its arguments by name."""
    own, generate = {name: each for name, each in vars(model).items() if name == "generate"}, model.generate

    @wraps(generate)
    def checking(*args: Any, **kwargs: Any) -> Any:
        check(model, named(generate, args, kwargs))
        return generate(*args, **kwargs)

    try:
        vars(model)["generate"] = checking
        yield
    finally:
        vars(model).pop("generate", None)
        vars(model).update(own)


def refused(model: Any, given: dict[str, Any]) -> str | None:
    """One line for the first argument of generate(), or setting that it would take, that pruning cannot go with."""
    settings = (given.get("generation_config"), model.generation_config)
    for name, reason in _REFUSED.items():
        values = [given[name]] if name in given else [getattr(each, name, None) for each in settings]
        value = next((each for each in values if each is not None), None)
        if value is not None and value is not False:
            got = value if isinstance(value, int) else type(value).__name__
            return f"{name} must be None where videos are pruned, got {got}: {reason}; leave it out or leave `pruned`"
    return None
