"""CUDA's graphs on the stand-in device: what is captured is not executed, and a replay knows nothing of Python.

A capture of the device writes operators down. It restores what they wrote to memory from before, spoils the memory that
they made, and refuses what CUDA refuses or would read again from host memory that is gone. A replay runs the operators
on the same memory, so a number that Python put into one stays what it was at the capture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import elsewhere
import torch
from torch.utils._pytree import tree_leaves

from streamprune_triton.streaming import graphs


class Tape:
    """The operators of one capture, in order."""

    def __init__(self) -> None:
        self._calls: list[tuple[Callable[..., Any], Any, dict[str, Any], list[torch.Tensor]]] = []
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by storage: what lay there
        self._own: dict[int, torch.Tensor] = {}

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """An operator on the tensors' memory, written down."""
        for tensor in _written(func, args, kwargs):
            if _place(tensor) not in self._own | self._before:
                whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                self._before[_place(tensor)] = whole, whole.clone()
        given = {_place(each) for each in _tensors((args, kwargs))}
        out = func(*args, **kwargs)
        made = [each for each in _tensors(out) if _place(each) not in given]
        self._own |= {_place(each): each for each in made}
        self._calls.append((func, args, kwargs, made))
        return out

    def end(self) -> None:
        """Nothing was executed: memory from before is as it was, the rest is whatever lies there."""
        for whole, values in self._before.values():
            whole.copy_(values)
        for tensor in self._own.values():
            torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).fill_(0xFF)  # NaN, and -1

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, made in self._calls:
                given = {_place(each) for each in _tensors((args, kwargs))}
                again = [each for each in _tensors(func(*args, **kwargs)) if _place(each) not in given]
                for held, new in zip(made, again, strict=True):
                    held.copy_(new)


class Recorded(graphs.Replay):
    """A `Replay` that captures on the stand-in device as it would on CUDA."""

    def __init__(self, work: Callable[..., Any], like: tuple[torch.Tensor, ...]) -> None:
        super().__init__(work, like)
        for _ in range(2):
            work(*self._inputs)
        tape = elsewhere.tape = Tape()
        try:
            self._output = work(*self._inputs)
        finally:
            elsewhere.tape = None
            tape.end()
        self._graph: Any = tape


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [each for each in tree_leaves(tree) if isinstance(each, torch.Tensor)]


def _place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _written(func: Any, args: Any, kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The operands that an operator writes to."""
    known = func._schema.arguments if hasattr(func, "_schema") else []
    given = dict(zip([argument.name for argument in known], args, strict=False)) | kwargs
    marked = [a.name for a in known if a.alias_info is not None and a.alias_info.is_write]
    return _tensors([given[name] for name in marked if name in given])
