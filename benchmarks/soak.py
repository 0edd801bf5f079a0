"""`python3 -m benchmarks.soak`: a session that never ends, beside one that starts again from each of its files.

A tiny model in hybrid memory with compact positions takes frames in pieces of random size, skips some, answers random
questions, remembers a few, is forked and saved. Whenever it is saved, a second session is loaded from the file; both
go on with the same frames and questions, so every answer is compared with that of a run restored from the last save.
Exit code 1 where one of these does not hold, once the first third of the frames, the warm-up, is behind:

- every answer of the restored run is the same, and so is a fork's, which has gone its own way before;
- resident memory stays within 2 % of the middle of its range;
- rows, positions and the file stay below bounds that follow from `Memory` alone;
- **files have one size** but for what they hold: the size less the bytes of rows, carriers and the raw frame that waits
  varies by less than 4 KiB, which are digits of counters and the turns that are remembered.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

import streamprune_triton as sp
from streamprune_triton.report.files import write_atomically

from .rows import CHECKOUT

SIDE = 56  # pixels: 2 x 2 tokens
SCENE = 240  # frames
LONGEST = 48  # frames of one append
POSITIONS = 4096  # of the model
FPS = 0.25  # a step takes up 16 positions, so that they are compacted again and again
QUESTIONS = ("What moves?", "Where is it now?", "What happened so far?", "Has the room changed? How?")
CONFIG = sp.PruneConfig(temporal_threshold=0.8, spatial_threshold=0.8)
MEMORY = sp.Memory("hybrid", max_carriers=32, recent_frames=8, max_tokens=32, max_dialogue=512, positions="compact")
WITHIN = 0.02  # of the middle of the range of resident memory
SPARE = 4096  # bytes of a file


@dataclass(frozen=True)
class Row:
    """Where the run stood after an append; sizes in bytes, `file` and `rest` of the last save.

    `rest` is the file without rows, carriers and raw frames that wait; `positions` the first behind all rows.
    """

    frames: int
    resident: int
    file: int
    rest: int
    rows: int
    kv_bytes: int
    carriers: int
    positions: int
    compactions: int
    answers: int
    different: int
    forks: int
    saves: int
    seconds: float


class Soak:
    """One run.

    Args:
        folder: where the session is saved.
        seed: of all that is random.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._path = folder / "soak.safetensors"
        model, processor = sp.models.tiny.qwen2_5_vl()
        model.config.get_text_config().max_position_embeddings = POSITIONS
        self._new: Callable[[], Any] = lambda: sp.StreamingSession(model, processor, CONFIG, MEMORY, fps=FPS)
        self.session, self._restored = self._new(), self._new()
        self.opening = self.session.stats.kv_tokens
        self._scene = np.empty((0, 0, 3), np.uint8)
        names = ("compactions", "answers", "different", "forks", "saves", "file", "rest")
        self._counts: dict[str, int] = dict.fromkeys(names, 0)
        self._began = time.perf_counter()

    def rows(self, frames: int) -> Iterator[Row]:
        """Takes so many frames, and says where it stands after each append."""
        while self.session.stats.frames_in < frames:
            before = self.session._past.rows
            new = self._frames(min(int(self._random.integers(1, LONGEST + 1)), frames - self.session.stats.frames_in))
            for each in self._both:
                each.append(new)
            self._counts["compactions"] += moved(before, self.session._past.rows)
            self._sometimes()
            yield self._row()

    @property
    def _both(self) -> tuple[sp.StreamingSession, sp.StreamingSession]:
        return self.session, self._restored

    def _sometimes(self) -> None:
        chance = self._random.random(5)
        if chance[0] < 0.2:
            self._ask(remember=bool(chance[0] < 0.1))
        if chance[1] < 0.05:
            self._fork()
        if chance[2] < 0.03:
            count = int(self._random.integers(1, 9))
            for each in self._both:
                each.skip(count)
        if chance[3] < 0.1 or not self._counts["saves"]:
            self._save()

    def _frames(self, count: int) -> np.ndarray:
        """(count, SIDE, SIDE, 3) uint8: a still room that is another one now and then, and a block that wanders."""
        first = self.session.stats.frames_in
        if not len(self._scene) or first // SCENE != (first + count) // SCENE:
            tiles = self._random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            self._scene = tiles.repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)
        frames = np.repeat(self._scene[None], count, axis=0)
        for n in range(count):
            x = (first + n) * 3 % (SIDE - 14)
            frames[n, 14:28, x : x + 14] = self._random.integers(0, 256, (14, 14, 3), dtype=np.uint8)
        return frames

    def _ask(self, remember: bool) -> None:
        question = str(self._random.choice(QUESTIONS))
        answers = [each.ask(question, remember=remember, max_new_tokens=6, do_sample=False) for each in self._both]
        self._counts["answers"] += 1
        self._counts["different"] += answers[0] != answers[1]

    def _fork(self) -> None:
        """A fork goes its own way and is forgotten; a second one, taken before, answers as the session does."""
        kept, lost = self.session.fork(), self.session.fork()
        lost.append(self._random.integers(0, 256, (6, SIDE, SIDE, 3), dtype=np.uint8))
        lost.ask(QUESTIONS[0], max_new_tokens=2, do_sample=False)
        answers = [each.ask(QUESTIONS[1], max_new_tokens=6, do_sample=False) for each in (kept, self._restored)]
        self._counts["forks"] += 1
        self._counts["different"] += answers[0] != answers[1]

    def _save(self) -> None:
        self.session.save(self._path)
        self._restored = self._new()
        self._restored.load(self._path)
        past, stats = self.session._past, self.session.stats
        held = stats.kv_bytes + stats.kv_tokens * 8 * (4 + len(past.rows.position))  # and what the rows are
        held += sum(embedding.nbytes for _, embedding in past.keeping.carriers)
        held += 0 if past.waiting is None else past.waiting.nbytes
        size = self._path.stat().st_size
        self._counts.update(file=size, rest=size - held, saves=self._counts["saves"] + 1)

    def _row(self) -> Row:
        stats = self.session.stats
        values: dict[str, Any] = {
            "frames": stats.frames_in,
            "resident": resident(),
            "rows": stats.kv_tokens,
            "kv_bytes": stats.kv_bytes,
            "carriers": stats.carriers,
            "positions": self.session._past.rows.top,
            "seconds": round(time.perf_counter() - self._began, 3),
        }
        return Row(**values, **self._counts)


def moved(before: Any, after: Any) -> bool:
    """Whether a row that is still there stands elsewhere."""
    names = (np.stack([rows.block, rows.slot, rows.kind]).T.tolist() for rows in (before, after))
    places = [
        {tuple(name): tuple(at) for name, at in zip(each, rows.position.T.tolist(), strict=True)}
        for each, rows in zip(names, (before, after), strict=True)
    ]
    return any(places[1].get(name, at) != at for name, at in places[0].items())


def resident() -> int:
    """Bytes of this process in memory now, by /proc; only Linux tells."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def most_rows(opening: int) -> int:
    """By the memory's bounds: the text in front, carriers, visual tokens, remembered turns and one more."""
    assert MEMORY.max_tokens is not None
    return opening + MEMORY.max_carriers + MEMORY.max_tokens + MEMORY.max_dialogue


def faults(rows: list[Row], opening: int) -> list[str]:
    """What of the module's promises does not hold, one line each."""
    found = []
    if rows[-1].different:
        found.append(f"{rows[-1].different} of {rows[-1].answers + rows[-1].forks} answers differ")
    late = [row for row in rows if row.frames > rows[-1].frames // 3]
    low, high = min(row.resident for row in late), max(row.resident for row in late)
    if high - low > WITHIN * (high + low):
        found.append(f"resident memory is from {low} to {high} bytes")
    most, held = most_rows(opening), max(row.rows for row in rows)
    if held > most:
        found.append(f"{held} rows are held, and the memory's bounds allow {most}")
    furthest = max(row.positions for row in rows)
    if furthest > POSITIONS:
        found.append(f"a row stands at position {furthest - 1}, and the model has {POSITIONS}")
    rest = [row.rest for row in late]
    if max(rest) - min(rest) > SPARE:
        found.append(f"files are from {min(rest)} to {max(rest)} bytes without what they hold")
    return found


def run(frames: int, seed: int = 0, progress: bool = False) -> tuple[list[Row], list[str]]:
    """(rows, faults) of a run; where wanted, a line of progress on stderr."""
    rows: list[Row] = []
    live = sys.stderr.isatty()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), seed)
        for row in soak.rows(frames):
            rows.append(row)
            if progress and live:
                print(f"\r{line(row)}", end="", file=sys.stderr, flush=True)
            elif progress and len(rows) % 100 == 0:
                print(line(row), file=sys.stderr)
    if progress:
        print("" if live else line(rows[-1]), file=sys.stderr)
    return rows, faults(rows, soak.opening)


def line(row: Row) -> str:
    """What a person wants to see of a row."""
    return (
        f"{row.frames} frames in {row.seconds:.0f} s: {row.resident / 2**20:.1f} MiB resident, {row.rows} rows, "
        f"file {row.file} B, {row.compactions} compactions, {row.answers} answers, {row.forks} forks, "
        f"{row.saves} saves, {row.different} different "
    )


def written(rows: list[Row]) -> bytes:
    """The rows as CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Row)])
    writer.writerows(map(astuple, rows))
    return text.getvalue().encode()


def plot(rows: list[Row]) -> bytes:
    """A PNG of resident memory, file size, rows and positions over the frames."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    frames = [row.frames for row in rows]
    curves: dict[str, list[float]] = {
        "resident memory, MiB": [row.resident / 2**20 for row in rows],
        "saved file, KiB": [row.file / 2**10 for row in rows],
        "rows held": [row.rows for row in rows],
        "position of the newest row": [row.positions for row in rows],
    }
    for n, (name, values) in enumerate(curves.items()):
        axes = figure.add_subplot(len(curves), 1, n + 1)
        axes.plot(frames, values, color="black", linewidth=0.7)
        axes.set_ylabel(name, fontsize=8)
        axes.set_ylim(0, 1.1 * max(values))
    axes.set_xlabel("raw frames")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=20_000, help="raw frames (20000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=CHECKOUT / "benchmarks" / "results" / "soak", help="a folder")
    options = parser.parse_args(argv)
    rows, found = run(options.frames, options.seed, progress=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "soak.csv", written(rows))
    write_atomically(options.out / "soak.png", plot(rows))
    print(line(rows[-1]))
    for fault in found:
        print(f"soak: {fault}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
