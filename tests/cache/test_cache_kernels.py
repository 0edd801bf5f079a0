"""The cache's kernels: one launch for all layers, compiled for every architecture without a GPU."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import triton
from compiling import TARGETS, Launch, Recorder
from filled import filled

from streamprune_triton.kernels import cache_move, cache_rotate

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SOME, ALL = [3, 1], None


def launches(monkeypatch, dtype: torch.dtype, dim: int, f: int, length: int = 6, layers: int = 3) -> list[Launch]:
    """Those of a drop and of two rotations, none of which runs."""
    noted: list[Launch] = []
    cache = filled(length, torch.device("cpu"), layers=layers, dim=dim, dtype=dtype)
    with monkeypatch.context() as patch, mock.patch.dict(os.environ, {"TRITON_INTERPRET": "1"}):
        patch.setattr(cache_move, "move_kernel", Recorder(cache_move.move_kernel, noted))
        patch.setattr(cache_rotate, "rotate_kernel", Recorder(cache_rotate.rotate_kernel, noted))
        cache.rotate(*torch.ones(2, length, f), ALL)
        cache.rotate(*torch.ones(2, len(SOME), f), SOME)
        cache.drop(SOME)
    return noted


def test_a_call_is_one_launch_for_all_layers_and_heads(monkeypatch):
    for layers in (1, 5):
        names = [each.name for each in launches(monkeypatch, torch.float32, 8, 4, layers=layers)]
        assert names == ["rotate_kernel", "rotate_kernel", "move_kernel"]


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("target", TARGETS)
def test_kernels_compile_for(target, dtype, monkeypatch, tmp_path):
    for dim, f in ((128, 64), (256, 128), (80, 20)):
        for launch in launches(monkeypatch, dtype, dim, f):
            compiled = launch.compile(TARGETS[target])
            assert compiled.metadata.enable_fp_fusion, "no release's default is relied on"
            if target.startswith("gfx"):
                assert re.search(r"\.private_segment_fixed_size:\s*0\b|ScratchSize: 0\b", compiled.asm["amdgcn"])
                continue
            if int(target[3:]) >= 80:
                used = resources(compiled.asm["cubin"], tmp_path / "kernel.cubin")
                assert re.search(r"STACK:0\b.*LOCAL:0\b", used), (dim, launch.name, used)
            if dim % 64 == 0 and (launch.name == "move_kernel" or launch.arguments["ALL"]):
                assert_wide(compiled.asm["ptx"], launch.name)


def resources(cubin: bytes, path: Path) -> str:
    path.write_bytes(cubin)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    return subprocess.run([tool, "--dump-resource-usage", path], capture_output=True, text=True, check=True).stdout


def assert_wide(ptx: str, name: str) -> None:
    """Rows are read and written by 16 bytes a thread, or by 8 where a thread has no more of them."""
    for kind in ("ld", "st"):
        assert re.search(rf"{kind}\.global\S*v[24]\.b32", ptx), (name, kind)


@pytest.mark.parametrize("size", [(2, 1, 6, 1), (1, 0, 4, 1), (6, 3, 4, 2)], ids=str)
def test_sizes_of_one_compile(size, monkeypatch):
    """The JIT turns an argument of 1 into a constant, which the interpreter does not."""
    dim, f, length, layers = size
    for launch in launches(monkeypatch, torch.bfloat16, dim, f, length, layers):
        launch.compile(TARGETS["sm_90"])


def test_another_number_of_rows_builds_nothing_new(monkeypatch):
    def specialisations(length: int) -> list[tuple]:
        found = []
        for launch in launches(monkeypatch, torch.bfloat16, 128, 64, length):
            fixed = {
                p.name: launch.arguments[p.name]
                for p in launch.kernel.params
                if p.is_constexpr or (isinstance(launch.arguments[p.name], int) and not p.do_not_specialize)
            }
            found.append((launch.name, fixed))
        return found

    assert specialisations(6) == specialisations(33) == specialisations(48)


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_addresses_are_computed_in_64_bits(target, monkeypatch):
    """A cache may have more than 2^31 elements, although none of its strides has."""
    for launch in launches(monkeypatch, torch.bfloat16, 128, 64):
        lines = launch.compile(TARGETS[target]).asm["ttir"].splitlines()
        products = [line for line in lines if "arith.muli" in line and "%c" not in line]  # by what is no constant
        assert len(products) > 1, launch.name
        assert all("i64" in line for line in products), products


def test_launches_move_what_they_say(monkeypatch):
    """The grid covers all planes and moves, and the table has sources behind the new end only."""
    for length, rows in ((40, range(0, 40, 2)), (40, [0]), (17, range(16))):
        noted: list[Launch] = []
        cache = filled(length, torch.device("cpu"), layers=3)
        with monkeypatch.context() as patch, mock.patch.dict(os.environ, {"TRITON_INTERPRET": "1"}):
            patch.setattr(cache_move, "move_kernel", Recorder(cache_move.move_kernel, noted))
            source = cache.drop(list(rows))
        sources, holes = noted[0].arguments["table_ptr"].numpy()
        assert noted[0].grid == (3 * 2 * 2 * -(-len(holes) // cache_move.ROWS),)
        assert (sources >= len(source)).all()
        assert (holes < len(source)).all()
        assert np.array_equal(source[holes], sources)
