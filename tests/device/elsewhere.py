"""A device that is not the CPU, on a machine that has none: what an accelerator refuses, and what its host waits for.

Tensors there say so of themselves, and lie in ordinary memory. As CUDA does, it refuses operands of different devices;
it writes down where the host would wait: for a value, for a shape that depends on values, for a copy between devices.
Importing registers it with torch, for good: the tests of this folder run in a process of their own.
"""

from __future__ import annotations

import traceback
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from streamprune_triton import ops

NAME = "elsewhere"
ROOT = Path(__file__).resolve().parents[2]
PARTS = ("streamprune_triton", "kernels", "examples", "benchmarks")
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
INDEXED = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)
SHAPED = {  # by values
    *(aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default),
    *(aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default),
}
MADE = (  # what the fallback cannot be for: sizes that are set later, values, copies from within torch
    *("arange", "arange.start", "arange.start_step", "linspace", "eye", "eye.m", "randperm"),
    *("_local_scalar_dense", "copy_"),
)

waits: Counter[tuple[str, str]] = Counter()  # by (operator, the line of the package or of transformers that asked)
tape: Any = None  # a `recorded.Tape` while operators are captured


class Elsewhere(torch.Tensor):
    """A tensor that says it is on the device."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> Elsewhere:
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=torch.device(NAME, 0),
            requires_grad=here.requires_grad,
        )
        made.here = here
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "streamprune":  # a composite: made of operators and kernels, on whatever device
            return getattr(ops, f"_{func._schema.name.partition('::')[2]}")(*args)
        return run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"{self.here!r} {NAME}"

    def tolist(self) -> Any:
        note("tolist")
        return self.here.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {NAME} device type tensor to numpy")

    def data_ptr(self) -> int:
        return self.here.data_ptr()

    def untyped_storage(self) -> Any:  # where it lies, for those who look for shared memory
        return self.here.untyped_storage()


def sent(given: dict[str, Any]) -> dict[str, Any]:
    """A model's arguments, on the device."""
    return {name: x.to(NAME) if isinstance(x, torch.Tensor) else x for name, x in given.items()}


def note(what: str) -> None:
    """A wait, unless it is `upload` that CUDA does not wait for. A capture allows neither: the copy would be made again
    from host memory that is gone."""
    if tape is not None:
        raise RuntimeError(f"operation not permitted when stream is capturing: {what}")
    stack = [frame for frame in traceback.extract_stack() if _known(frame.filename)]
    if not any(frame.name == "upload" for frame in stack):
        last = stack[-1] if stack else None
        waits[what, f"{_known(last.filename)}: {last.line}" if last else ""] += 1


def _known(name: str) -> str:
    """A file of the package or of transformers, from there on; no other has a name."""
    if "/transformers/" in name:
        return "transformers/" + name.split("/transformers/", 1)[1]
    inside = any(name.startswith(str(ROOT / part)) for part in PARTS)
    return str(Path(name).relative_to(ROOT)) if inside else ""


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operator on the tensors' memory; its values are on the device if an operand was, or if that was asked for."""
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    far = [each for each in tensors if isinstance(each, Elsewhere)]
    _refuse(func, args, tensors, far)
    _look(func, args, kwargs, far)
    to_far = bool(far)
    inner_args, inner = tree_map_only(Elsewhere, lambda each: each.here, (args, kwargs))
    if inner.get("device") is not None:
        to_far = torch.device(inner["device"]).type == NAME
        inner["device"] = torch.device("cpu") if to_far else inner["device"]
    if func is aten.copy_.default:
        execute(func, inner_args, inner)
        return args[0]
    out = execute(_histogram if func is aten.histc.default else func, inner_args, inner)
    if not to_far or func is aten._local_scalar_dense.default:
        return out
    wrapped = tree_map_only(torch.Tensor, Elsewhere, out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if far else wrapped


def execute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs) if tape is None else tape.run(func, args, kwargs)


def _histogram(x: torch.Tensor, *rest: Any) -> torch.Tensor:
    """Of whole numbers as well, as accelerators have it."""
    return aten.histc.default(x.float(), *rest).to(x.dtype)


def _refuse(func: Any, args: Any, tensors: list[torch.Tensor], far: list[Elsewhere]) -> None:
    """As CUDA: a number may come from the CPU, and indices of what is on the device."""
    if not far or func in COPIES or (func in INDEXED and isinstance(args[0], Elsewhere)):
        return
    if any(each.ndim and not isinstance(each, Elsewhere) for each in tensors):
        places = [(str(each.device), tuple(each.shape)) for each in tensors]
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} of {places}")


def _look(func: Any, args: Any, kwargs: dict[str, Any], far: list[Elsewhere]) -> None:
    if func is aten.copy_.default and isinstance(args[0], Elsewhere) != isinstance(args[1], Elsewhere):
        queued = (args[2:] or [kwargs.get("non_blocking", False)])[0]
        if isinstance(args[0], Elsewhere) and (tape is not None or not queued):
            note("copy to the device")
        elif isinstance(args[1], Elsewhere):  # queued or not: who wants the values waits for them
            note("copy to the host")
    elif func is aten._to_copy.default and far and torch.device(kwargs.get("device") or NAME).type != NAME:
        note("copy to the host")
    elif (func in SHAPED and far) or (func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None):
        note(str(func))
    elif func in INDEXED and far:
        indices = [each for each in args[1] if each is not None]
        if any(each.dtype == torch.bool or not isinstance(each, Elsewhere) for each in indices):
            note(f"{func} by a mask, or from the host")


def _fallback(func: Any, *args: Any, **kwargs: Any) -> Any:
    return run(func, args, kwargs)


def register() -> list[torch.library.Library]:
    """The device, for as long as what is returned is held."""
    _setup_privateuseone_for_python_backend(NAME)
    others, made = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    others.fallback(_fallback, "PrivateUse1")
    for name in MADE:
        base, _, overload = name.partition(".")
        made.impl(name, partial(_fallback, getattr(getattr(aten, base), overload or "default")), "PrivateUse1")
    return [others, made]


held = register()
