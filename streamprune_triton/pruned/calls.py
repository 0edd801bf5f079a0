"""How a call looks to a hook."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def named(function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names."""
    if not args:
        return kwargs
    return {**dict(zip(inspect.signature(function).parameters, args, strict=False)), **kwargs}
