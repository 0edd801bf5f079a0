"""Every kernel compiles, without a GPU, for every architecture: no spills, and 16-byte loads of the features."""

from __future__ import annotations

import re

import pytest
import torch
import triton
from compiling import TARGETS, machine, record

import streamprune_triton as sp
from streamprune_triton import ops
from streamprune_triton.rule import Rule

# Together these launch every kernel, with every compile-time branch that changes registers or loads.
CASES = {
    "default": (sp.PruneConfig(), 1),
    "ragged": (sp.PruneConfig(), 3),
    "survivors": (sp.PruneConfig(neighbors="survivors", max_tokens=9, carrier="kept"), 1),
    "last_kept": (sp.PruneConfig(reference="last_kept", carrier=None), 1),
    "no carrier": (sp.PruneConfig(carrier=None), 1),
    "temporal": (sp.PruneConfig(mask=None, keep_tokens=99, scope="clip"), 1),
}
# Bytes of a thread that a release's compiler moves out of registers around the loop of the fused pass
RELEASE = tuple(map(int, triton.__version__.split(".")[:2]))
if RELEASE < (3, 8):
    AROUND_THE_LOOP = {"sm_80": 80}
elif RELEASE < (3, 9):
    AROUND_THE_LOOP = {}
else:
    AROUND_THE_LOOP = {"sm_80": 104, "sm_86": 8, "sm_89": 8, "sm_90": 8, "sm_100": 56, "sm_120": 16}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
FEATURE_READERS = ("similarity_kernel", "compact_kernel", "kept_carrier_kernel")


def launches(case: str, dtype: torch.dtype, t: int = 2, h: int = 16, w: int = 16, d: int = 3584):
    config, streams = CASES[case]
    x = [torch.empty(t, h, w, d, dtype=dtype) for _ in range(streams)]
    rule, capacity = Rule.of(config, x[0].device), [t * h * w] * streams
    out = ops.empty(x, rule.carrier, capacity)
    return record(lambda: ops.by_triton(x, [(None, None, None)] * streams, rule, capacity, out))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("target", TARGETS)
def test_kernels_compile_for(target, dtype):
    seen = set()
    for case in CASES:
        for launch in launches(case, dtype):
            if case != "ragged" and (launch.name, case == "default") in seen:
                continue
            seen.add((launch.name, case == "default"))
            compiled = launch.compile(TARGETS[target])
            assert compiled.metadata.enable_fp_fusion, "no release's default is relied on"
            if target.startswith("gfx"):
                assert re.search(r"\.private_segment_fixed_size:\s*0\b|ScratchSize: 0\b", compiled.asm["amdgcn"])
                continue
            if int(target[3:]) >= 80:
                made = machine(compiled)
                allowed = AROUND_THE_LOOP.get(target, 0) if launch.name == "similarity_kernel" else 0
                assert made.spilled <= allowed, (case, launch.name)
                assert not [name for name in made.loop if name.startswith(("LDL", "STL"))], (case, launch.name)
            if launch.name in FEATURE_READERS:
                loads = [s for s in re.findall(r"ld\.global\S*", compiled.asm["ptx"]) if "v4.b32" in s]
                assert loads, (case, launch.name)
    assert {name for name, _ in seen} == {
        "similarity_kernel",
        "decide_kernel",
        "select_kernel",
        "compact_kernel",
        "kept_carrier_kernel",
    }


def test_every_load_of_features_in_the_fused_pass_is_16_bytes_wide():
    """One load is narrower: that of the sums of the tile before, a feature a thread."""
    for case in ("default", "ragged"):
        for dtype in (torch.bfloat16, torch.float32):
            compiled = launches(case, dtype)[0].compile(TARGETS["sm_90"])
            widths = re.findall(r"ld\.global(?:\.\w+)*?\.(v\d\.)?b(?:16|32)\b", compiled.asm["ptx"])
            assert widths.count("v4.") >= 22, "no loads found"
            assert len(widths) - widths.count("v4.") <= 1, (case, dtype, widths)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_sums_within_a_thread_move_nothing(target, dtype):
    """The loop multiplies and adds once a product and feature, without another thread; the carrier alone needs those.

    22 loads for 8 tokens: their own, 2 beside, 4 below, 8 of the frame before.
    """
    loop = machine(launches("no carrier", dtype)[0].compile(TARGETS[target])).loop
    counted = {
        kind: sum(name.startswith(kind) for name in loop) for kind in ("FFMA", "LDG", "SHFL", "STS", "LDS", "BAR")
    }
    assert counted == {"FFMA": 4 * 8 * 16 // dtype.itemsize, "LDG": 22, "SHFL": 0, "STS": 0, "LDS": 0, "BAR": 0}


def test_another_length_or_resolution_builds_nothing_new():
    """T, H, W, thresholds and frame counters are run-time arguments: the specialisation is the same for all."""

    def specialisations(**size: int) -> list[tuple]:
        found = []
        for launch in launches("default", torch.bfloat16, **size):
            fixed = {
                p.name: launch.arguments[p.name]
                for p in launch.kernel.params
                if p.is_constexpr or (isinstance(launch.arguments[p.name], int) and not p.do_not_specialize)
            }
            found.append((launch.name, {k: v if v in (True, False, 1) else v % 16 == 0 for k, v in fixed.items()}))
        return found

    expected = specialisations(t=2, h=16, w=16)
    for size in ({"t": 1, "h": 16, "w": 16}, {"t": 7, "h": 5, "w": 3}, {"t": 3, "h": 1, "w": 77}):
        assert specialisations(**size) == expected, size


@pytest.mark.parametrize("size", [(1, 1, 1, 1), (2, 3, 1, 7), (1, 1, 5, 100), (3, 9, 17, 2)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_sizes_of_one_compile(case, size):
    """The JIT turns an argument of 1 into a constant, which the interpreter does not."""
    for launch in launches(case, torch.bfloat16, *size):
        launch.compile(TARGETS["sm_90"])


def test_a_batch_shares_its_launches():
    """As many launches for many streams, one of them without a frame, as for one."""

    def names(*lengths: int) -> list[str]:
        x = [torch.empty(t, 3, 4, 32) for t in lengths]
        rule, capacity = Rule.of(sp.PruneConfig(), x[0].device), [12 * t for t in lengths]
        out = ops.empty(x, rule.carrier, capacity)
        held = [(None, None, None)] * len(x)
        return [each.name for each in record(lambda: ops.by_triton(x, held, rule, capacity, out))]

    assert names(2) == ["similarity_kernel", "compact_kernel"]
    assert names(2, 0, 5, 1) == names(2)
