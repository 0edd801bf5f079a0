"""From tensors to launches: sizes, scratch memory, the table of a ragged batch, and the order of the kernels."""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import triton

from .carrier import kept_carrier_kernel
from .compact import compact_kernel
from .decide import MASK_NAMES, decide_kernel
from .select import select_kernel
from .similarity import QUANTITIES, similarity_kernel
from .streams import NAMES
from .tuned import FUSED, free, order

TILE_H, TILE_W = 8, 8
GROUP = 8  # tiles whose sums are added one by one: in a program that walks through them, else when they are read
MANY = 3  # programs a multiprocessor, one more than are resident at once: none is without work then
BLOCK_T = 32  # tokens a block of the decision and compaction kernels
SELECT_T = 1024  # tokens at once in the selection of a budget
CARRIER_D, CARRIER_ROWS = 128, 16
# ptxas would rather spill a register or two than run fewer blocks at once
NO_SPILLS = {} if torch.version.hip else {"maxnreg": 255}
READ = ("x", "reference", "squared_norms")  # of a stream, by the fused pass
SPARE = 1 << 62  # an entry of the table that no index reaches


class Stream(NamedTuple):
    """One stream's inputs. The last three are None for a new stream."""

    x: torch.Tensor  # (T, H, W, D), T >= 1 for one stream at least
    reference: torch.Tensor | None  # (H, W, D)
    squared_norms: torch.Tensor | None  # (H, W) float32
    frames: torch.Tensor | None  # () int64


def prune(streams: list[Stream], rule: Any, capacities: list[int], out: Any) -> None:
    """Writes the pruned streams to `out`, which has the fields of `packed.Packed`; `rule` has those of `rule.Rule`.

    Two launches for thresholds, four for a budget, one more for carrier "kept"; with last_kept so many for each frame
    of the longest stream. Never waits for the device. A batch of several streams copies its table to the device.
    """
    streams = [s._replace(**{name: _packed(getattr(s, name)) for name in READ}) for s in streams]
    batch = _Batch(streams, rule, capacities, out)
    if not rule.last_kept:
        return batch.launch([(0, len(s.x)) for s in streams], 0)
    batch.begin_last_kept()
    for n in range(max(len(s.x) for s in streams)):
        batch.launch([(min(n, len(s.x)), min(n + 1, len(s.x))) for s in streams], n)


def _packed(x: torch.Tensor | None) -> torch.Tensor | None:
    """Contiguous, and beginning at 16 bytes: for other strides Triton builds other code, which may sum in another
    order, and chunks of one stream may differ in theirs."""
    if x is None:
        return None
    x = x.contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


def ceil_div(a: int, b: int) -> int:
    """Triton's own, callable from kernels as well, takes microseconds."""
    return -(-a // b)


def _firsts(sizes: list[int]) -> list[int]:
    """Where each of several runs begins, and behind the last one the end."""
    return [0, *accumulate(sizes)]


class _Batch:
    """The scratch memory of one call, and the launches that share it."""

    def __init__(self, streams: list[Stream], rule: Any, capacities: list[int], out: Any) -> None:
        self.streams, self.rule, self.capacities, self.out = streams, rule, capacities, out
        x = streams[0].x
        self.d = x.shape[3]
        self.order = order(x.device, x.dtype, self.d)
        self.slices = ceil_div(self.d, self.order.slice)
        self.grids = [(s.x.shape[1], s.x.shape[2]) for s in streams]
        self.blocks = [ceil_div(h * w, BLOCK_T) for h, w in self.grids]
        lengths = [len(s.x) for s in streams]
        at_once = [min(1, t) for t in lengths] if rule.last_kept else lengths
        self.tiles_per_program, self.groups = _groups(self.grids, at_once, self.slices, x.device)
        self.first_token = _firsts([t * h * w for t, (h, w) in zip(lengths, self.grids, strict=True)])
        self.first_frame = _firsts(lengths)
        self.first_sum = _firsts([t * count for t, count in zip(lengths, self.groups, strict=True)])
        self.first_row = _firsts(capacities)

        self.budget = max(rule.keep_tokens, rule.max_tokens)
        tokens = self.first_token[-1]
        self.free = free(x.device, x.dtype, self.d, tokens)
        self.dots = x.new_empty((QUANTITIES, self.slices, tokens), dtype=torch.float32)
        self.sums = x.new_empty((self.first_sum[-1] if rule.carrier == "all" else 0, self.d), dtype=torch.float32)
        self.decision = x.new_empty(tokens if self.budget >= 0 else 0, dtype=torch.uint8)
        self.redundancy = x.new_empty(len(self.decision), dtype=torch.float32)
        self.mask = self.decision if rule.mask is None else rule.mask.contiguous().view(torch.uint8)
        # last_kept reads norms of neighbours while it writes, so two buffers take turns; the last one is the output
        spare = [torch.empty_like(n) for n in out.squared_norms] if rule.last_kept else out.squared_norms
        self.norms = (out.squared_norms, spare)

    def begin_last_kept(self) -> None:
        """The next reference is updated place by place, so it begins as what is held now."""
        for stream, begun in zip(self.streams, self.out.reference, strict=True):
            if stream.reference is None:
                begun.zero_()
            else:
                begun.copy_(stream.reference)

    def launch(self, windows: list[tuple[int, int]], n: int) -> None:
        """Prunes frames start to stop of each stream; `n` counts the launches of this call."""
        lengths = [stop - start for start, stop in windows]
        slices = self.slices
        per_program = frames_per_program(sum(lengths) * max(self.groups) * slices, self.free.frames, self.dots.device)
        programs = _firsts([ceil_div(t, per_program) * k * slices for t, k in zip(lengths, self.groups, strict=True)])
        blocks = _firsts([t * count for t, count in zip(lengths, self.blocks, strict=True)])
        segments = _firsts(lengths)
        rows = [self._row(b, windows[b], programs[b], blocks[b], segments[b], n) for b in range(len(windows))]
        many = triton.next_power_of_2(len(rows)) if len(rows) > 1 else 0
        table = _table(rows, many, self.dots.device) if many else self.out.frames
        grid = (programs[-1], blocks[-1], segments[-1])
        self._run(rows[0], table, {"STREAMS": many}, bool(many) and _aligned(rows), grid, n, per_program)

    def _row(self, b: int, window: tuple[int, int], program: int, block: int, segment: int, n: int) -> Row:
        stream, (h, w), out = self.streams[b], self.grids[b], self.out
        turn = (len(stream.x) - 1 - n) % 2 if self.rule.last_kept else 0
        later = n > 0  # then the reference is what the launch before left in the output
        return Row(
            stream.x,
            *(h * w * self.d, w * self.d, self.d),  # a dimension of size 1 may have any stride
            out.reference[b] if self.rule.last_kept and (later or stream.reference is not None) else stream.reference,
            self.norms[1 - turn][b] if later else stream.squared_norms,
            stream.frames,
            out.reference[b],
            self.norms[turn][b],
            len(stream.x),
            h,
            w,
            *window,
            self.first_token[b],
            self.first_frame[b],
            self.first_sum[b],
            self.first_row[b],
            self.capacities[b],
            program,
            block,
            segment,
        )

    def _run(
        self, row: Row, table: torch.Tensor, streams: dict, aligned: bool, grid: tuple[int, int, int], n: int, per: int
    ) -> None:
        """The kernels in order. `row` holds the arguments of a single stream and the types of a batch."""
        out, rule, cut = self.out, self.rule, self.order
        programs, blocks, frames = grid
        tokens = self.first_token[-1]
        sync = self.dots.new_empty(1 + blocks + frames, dtype=torch.int32)
        keep, overflow = out.keep.view(torch.uint8), out.overflow.view(torch.uint8)
        strides = (row.stride_t, row.stride_h, row.stride_w)
        norms = self.dots if row.squared_norms is None else row.squared_norms
        seen = out.frames if row.frames is None else row.frames
        has = (int(row.squared_norms is not None), int(row.frames is not None))
        thresholds = (rule.temporal_threshold, rule.spatial_threshold, rule.keyframe_interval)
        kind = MASK_NAMES.index(rule.mask_kind)
        tile = {"TILE_H": TILE_H, "TILE_W": TILE_W}
        decide = {
            "MASK": kind,
            "KEYFRAMES": rule.keyframe_interval > 0,
            "SURVIVORS": rule.survivors,
            "SLICES": self.slices,
            "BLOCK_T": BLOCK_T,
        }
        place = {**streams, "ALIGNED": aligned}

        similarity_kernel[(programs,)](
            row.x, row.x if row.reference is None else row.reference, self.dots, self.sums, row.next_reference,
            out.nonfinite, sync, table, row.length, row.height, row.width, row.start, row.stop,
            int(row.reference is not None), self.tiles_per_program, per, tokens, 0 if n else len(self.streams),
            sync.numel(), self.d, *strides, **place, SPATIAL=kind > 0, SUMS=rule.carrier == "all",
            KEEP_LAST=not rule.last_kept, **tile, SLICE=cut.slice, BLOCK_D=cut.block_d,
            LANES=16 // row.x.element_size(), EVEN=self.d % cut.block_d == 0, num_warps=cut.warps, **NO_SPILLS, **FUSED,
        )  # fmt: skip
        if self.budget >= 0:
            decide_kernel[(blocks,)](
                self.dots, norms, seen, self.mask, self.decision, self.redundancy, out.temporal, out.spatial, table,
                row.height, row.width, row.start, *has, tokens, *thresholds, **streams, **decide, num_warps=1, **FUSED,
            )  # fmt: skip
            select_kernel[(len(self.streams) if rule.clip else frames,)](
                self.decision, self.redundancy, table, row.height, row.width, row.length, row.start, self.budget,
                **streams, CLIP=rule.clip, BLOCK_T=SELECT_T, num_warps=4, **FUSED,
            )  # fmt: skip
        parts = self.free.parts
        carriers = frames * ceil_div(self.d, CARRIER_D) if rule.carrier == "all" else 0
        compact_kernel[(blocks * parts + carriers,)](
            row.x, self.dots, self.sums, norms, seen, self.mask, out.tokens, out.indices, self.decision, keep,
            out.counts, out.cu_counts, out.carriers, out.temporal, out.spatial, out.nonfinite, overflow,
            row.next_reference, row.next_norms, out.frames, sync, table, row.length, row.height, row.width, row.start,
            row.stop, row.capacity, *has, blocks * parts, blocks, self.tiles_per_program, tokens, self.d, *strides,
            *thresholds, **place, DECIDE=self.budget < 0, LAST_KEPT=rule.last_kept, **decide, **tile, GROUP=GROUP,
            PARTS=parts, BLOCK_D=cut.block_d, CARRIER_D=CARRIER_D, CARRIER_ROWS=CARRIER_ROWS, num_warps=4,
            **NO_SPILLS, **FUSED,
        )  # fmt: skip
        if rule.carrier == "kept":
            kept_carrier_kernel[(frames * ceil_div(self.d, CARRIER_D),)](
                row.x, self.dots, keep, out.counts, out.carriers, table, row.height, row.width, row.start, tokens,
                self.d, *strides, **place, **tile, SLICES=self.slices, BLOCK_D=CARRIER_D, ROWS=CARRIER_ROWS,
                num_warps=4, **FUSED,
            )  # fmt: skip


class Row(NamedTuple):
    """One stream's row of the table, fields as in streams.NAMES, with tensors in place of addresses."""

    x: torch.Tensor
    stride_t: int
    stride_h: int
    stride_w: int
    reference: torch.Tensor | None
    squared_norms: torch.Tensor | None
    frames: torch.Tensor | None
    next_reference: torch.Tensor
    next_norms: torch.Tensor
    length: int
    height: int
    width: int
    start: int
    stop: int
    token: int
    frame: int
    tile: int
    row: int
    capacity: int
    program: int
    block: int
    segment: int


def _addresses(row: Row) -> list[int]:
    return [0 if v is None else v.data_ptr() if isinstance(v, torch.Tensor) else v for v in row]


def _table(rows: list[Row], height: int, device: torch.device) -> torch.Tensor:
    """(height, columns) int64 on the device; the copy is queued, not waited for."""
    spare = [SPARE] * len(Row._fields)
    table = torch.tensor([_addresses(row) for row in rows] + [spare] * (height - len(rows)))
    return (table.pin_memory() if device.type == "cuda" else table).to(device, non_blocking=True)


def _aligned(rows: list[Row]) -> bool:
    """Whether 16-byte loads may be used throughout."""
    return all(value % 16 == 0 for row in rows for value in (*_addresses(row)[:5], row.next_reference.data_ptr()))


def _groups(
    grids: list[tuple[int, int]], lengths: list[int], slices: int, device: torch.device
) -> tuple[int, list[int]]:
    """(tiles a program walks through, how many such groups of tiles each stream's frames have).

    Walking through a group saves the memory of its sums but for one, and is done where enough programs are left.
    """
    tiles = [ceil_div(h, TILE_H) * ceil_div(w, TILE_W) for h, w in grids]
    walked = [ceil_div(count, GROUP) for count in tiles]
    programs = slices * sum(t * count for t, count in zip(lengths, walked, strict=True))
    return (GROUP, walked) if programs >= MANY * _processors(device) else (1, tiles)


@lru_cache(maxsize=8)
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def frames_per_program(programs: int, most: int, device: torch.device) -> int:
    """Frames one program walks through, so that the previous one is still cached; no part of any sum's order."""
    return max(1, min(most, programs // (8 * _processors(device))))


assert Row._fields == NAMES
