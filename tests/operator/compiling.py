"""Compiles the kernels without a GPU, exactly as a launch would specialise them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.uint8: "u8",
}
TARGETS = {
    **{f"sm_{n}": GPUTarget("cuda", n, 32) for n in (75, 80, 86, 89, 90, 100, 120)},
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


@dataclass
class Launch:
    """One recorded launch: the kernel, its grid and its arguments by name."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, int]

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__

    def compile(self, target: GPUTarget) -> Any:
        """The compiled kernel, specialised as the JIT does: multiples of 16 are known to be such."""
        kernel = self.kernel
        signature, constants, attributes = {}, {}, {}
        for index, parameter in enumerate(kernel.params):
            value = self.arguments[parameter.name]
            if parameter.is_constexpr:
                signature[parameter.name] = "constexpr"
                constants[(index,)] = value
                continue
            specialised = not parameter.do_not_specialize
            if isinstance(value, torch.Tensor):
                signature[parameter.name] = "*" + TYPES[value.dtype]
                multiple = True  # torch allocates GPU memory in multiples of 512 bytes
            elif isinstance(value, float):
                signature[parameter.name] = "fp32"
                multiple = False
            elif value == 1 and specialised:
                signature[parameter.name] = "constexpr"
                constants[(index,)] = 1
                continue
            else:
                signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
                multiple = value % 16 == 0
            if multiple and specialised:
                attributes[(index,)] = [["tt.divisibility", 16]]
        source = ASTSource(kernel, signature, constants, attributes)
        options = self.options if target.backend == "cuda" else {"num_warps": self.options["num_warps"]}
        return triton.compile(source, target=target, options=options)


class Recorder:
    """Stands in for a kernel: `recorder[grid](...)` notes the launch and runs nothing."""

    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        names = [p.name for p in self.kernel.params]

        def note(*args: Any, **kwargs: Any) -> None:
            options = {k: kwargs.pop(k) for k in ("num_warps", "num_stages", "maxnreg") if k in kwargs}
            self.launches.append(Launch(self.kernel, grid, dict(zip(names, args, strict=False)) | kwargs, options))

        return note


def record(call: Any, monkeypatch: Any) -> list[Launch]:
    """The launches that `call()` makes through `kernels.launch`, none of which runs."""
    from streamprune_triton.kernels import launch

    launches: list[Launch] = []
    with monkeypatch.context() as patch:
        for name in ("similarity_kernel", "decide_kernel", "select_kernel", "compact_kernel", "kept_carrier_kernel"):
            patch.setattr(launch, name, Recorder(getattr(launch, name), launches))
        call()
    return launches
