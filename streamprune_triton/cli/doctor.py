"""streamprune doctor."""

from __future__ import annotations

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("streamprune-triton", "torch", "triton", "transformers", "numpy", "safetensors")
MISSING = "not installed"
# What is missing without a package
EXTRAS = {
    "torchvision": "no processor makes what generate takes, as with sp.pruned; sessions run",
    "av": "no video files",
    "matplotlib": "no reports",
    "pillow": "no reports, and without torchvision no frames for a model",
    "peft": "no training",
    "accelerate": "no training",
}


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "doctor",
        help="what is installed, which backend will run, and whether it is right",
        description="Versions, devices, the backend that will run and why, and a check of it. Exit 1 if that fails.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the findings. Returns 1 where the backend that will be used gives wrong answers."""
    import torch

    print("versions")
    _line("python", platform.python_version())
    for package in PACKAGES:  # torch says its build (+cpu, +cu130), which its metadata may leave out
        _line(package, torch.__version__ if package == "torch" else _version(package))
    for package, cost in EXTRAS.items():
        found = _version(package)
        _line(package, f"{found}: {cost}" if found == MISSING else found)
    print("devices")
    for name in _devices():
        _line(*name)
    from ..ops import interpreting, runs_triton

    device = "cuda" if torch.cuda.is_available() else "cpu"
    used = "triton" if runs_triton(torch.device(device)) else "torch"
    print("backend")
    _line("TRITON_INTERPRET", os.environ.get("TRITON_INTERPRET", "not set"))
    if interpreting():
        _line("used", "triton, interpreted on the CPU and slow, as TRITON_INTERPRET is set")
    else:
        _line("used", f"{used}, as there is {'a' if device == 'cuda' else 'no'} CUDA or ROCm GPU")
    print("self-check")
    verdicts = {backend: _verdict(backend, device) for backend in ("torch", "triton")}
    for backend, (right, verdict) in verdicts.items():
        _line(backend, verdict if right or backend == used else f"{verdict} (not used here)")
    return 0 if verdicts[used][0] else 1


def _line(name: str, value: str) -> None:
    print(f"  {name:<20} {value}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return MISSING


def _devices() -> list[tuple[str, str]]:
    import torch

    found = [("cpu", f"{platform.machine()}, {torch.get_num_threads()} threads")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append((f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    return found


def _verdict(backend: str, device: str) -> tuple[bool, str]:
    """Whether the backend runs on the device and agrees with float64 arithmetic, and that in words."""
    from . import selfcheck

    try:
        faults = selfcheck.check(backend, device)
    except Exception as error:  # whatever keeps a backend from running is the finding
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return False, f"cannot run: {reason}"
    return (not faults, f"wrong: {'; '.join(faults)}" if faults else "right")
