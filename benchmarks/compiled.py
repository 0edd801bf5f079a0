"""Compiles the kernels without a GPU, exactly as a launch would specialise them, and reads what came out."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

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
OPTIONS = ("num_warps", "num_stages", "maxnreg", "enable_fp_fusion")
KERNELS = ("similarity_kernel", "decide_kernel", "select_kernel", "compact_kernel", "kept_carrier_kernel")


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
        options = {k: v for k, v in self.options.items() if target.backend == "cuda" or k != "maxnreg"}
        return triton.compile(source, target=target, options=options)


class Recorder:
    """Stands in for a kernel: `recorder[grid](...)` notes the launch and runs nothing."""

    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        names = [p.name for p in self.kernel.params]

        def note(*args: Any, **kwargs: Any) -> None:
            options: dict[str, int] = {k: kwargs.pop(k) for k in OPTIONS if k in kwargs}
            self.launches.append(Launch(self.kernel, grid, dict(zip(names, args, strict=False)) | kwargs, options))

        return note


def record(call: Callable[[], Any]) -> list[Launch]:
    """The launches that `call()` makes through `kernels.launch`, none of which runs."""
    from streamprune_triton.kernels import launch

    launches: list[Launch] = []
    with ExitStack() as patches:
        for name in KERNELS:
            patches.enter_context(mock.patch.object(launch, name, Recorder(getattr(launch, name), launches)))
        call()
    return launches


@dataclass(frozen=True)
class Machine:
    """What ptxas made of a kernel.

    Attributes:
        registers: of a thread.
        shared: bytes of shared memory of a program.
        spilled: bytes of a thread's stack and local memory.
        instructions: the names of all instructions, in order, without predicate and operands.
        loop: those of the innermost loop that holds most of the multiply-adds; empty where there is no such loop.
    """

    registers: int
    shared: int
    spilled: int
    instructions: tuple[str, ...]
    loop: tuple[str, ...]


def machine(compiled: Any) -> Machine:
    """Reads the cubin with the tools that come with Triton."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        used = _tool("cuobjdump", "--dump-resource-usage", path)
        code = _tool("nvdisasm", "-c", path)
    numbers = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", used)}
    names, lines = _instructions(code)
    return Machine(
        numbers["REG"], compiled.metadata.shared, numbers["STACK"] + numbers["LOCAL"], tuple(names), _loop(names, lines)
    )


def _tool(name: str, *arguments: Any) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


def _instructions(code: str) -> tuple[list[str], list[tuple[int, int]]]:
    """(names of the instructions, first and last of each loop) of nvdisasm's text."""
    labels: dict[str, int] = {}
    names: list[str] = []
    jumps: list[tuple[int, str]] = []
    for line in code.splitlines():
        label = re.match(r"(\.L\w+):", line.strip())
        told = re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([\w.]+)(.*);", line)
        if label:
            labels[label[1]] = len(names)
        elif told:
            target = re.search(r"`\((\.L\w+)\)", told[2])
            if told[1].startswith("BRA") and target:
                jumps.append((len(names), target[1]))
            names.append(told[1])
    return names, [(labels[label], at) for at, label in jumps if labels.get(label, at + 1) <= at]


def _loop(names: list[str], loops: Iterable[tuple[int, int]]) -> tuple[str, ...]:
    def adds(loop: tuple[int, int]) -> int:
        return sum(name.startswith("FFMA") for name in names[loop[0] : loop[1] + 1])

    found = [loop for loop in loops if adds(loop)]
    most = max(map(adds, found), default=0)
    inner = min((loop for loop in found if adds(loop) > most / 2), key=lambda loop: loop[1] - loop[0], default=None)
    return tuple(names[inner[0] : inner[1] + 1]) if inner else ()
