"""The table at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..streaming.memory import Memory
    from ..streaming.stats import Stats

STAGES = ("preprocess", "vision", "prune", "prefill")


def rows(
    stats: Stats, frames: int, broken: int, decoding: float | None, memory: Memory, text: int
) -> list[tuple[str, str]]:
    """What is told of a session, as (name, value).

    Args:
        stats: of the session.
        frames: raw frames.
        broken: packets of the video that did not decode.
        decoding: seconds spent on decoding, where that is known.
        memory: of the session.
        text: rows of text that the cache would hold if nothing ever left it.
    """
    tokens, kept, by_time, by_space = (
        stats.tokens_in,
        stats.tokens_kept,
        stats.dropped_temporal,
        stats.dropped_spatial,
    )
    table = [
        ("raw frames", f"{frames:,}"),
        ("temporal steps", f"{stats.steps:,}"),
        ("visual tokens in", f"{tokens:,}"),
        ("visual tokens kept", f"{kept:,}  ({_share(kept, tokens)})"),
        ("dropped by time", f"{by_time:,}  ({_share(by_time, tokens)})"),
        ("dropped by space", f"{by_space:,}  ({_share(by_space, tokens)})"),
    ]
    if broken:
        table.insert(1, ("broken packets", f"{broken:,}"))
    if stats.nonfinite:
        table.append(("dropped, not finite", f"{stats.nonfinite:,}"))
    if decoding is not None:
        table.append(("decode, ms a step", f"{1e3 * decoding / max(stats.steps, 1):.2f}"))
    for stage in STAGES:
        if stage in stats.seconds:
            table.append((f"{stage}, ms a step", f"{1e3 * stats.seconds[stage] / max(stats.steps, 1):.2f}"))
    if stats.seconds.get("answer"):
        table.append(("answers, s", f"{stats.seconds['answer']:.2f}"))
    if memory.carriers:
        table.append(("carriers held", f"{stats.carriers:,}"))
    table.append(("KV cache", f"{readable_bytes(stats.kv_bytes)}  ({stats.kv_tokens:,} tokens)"))
    if stats.kv_tokens:
        size = stats.kv_bytes * (tokens + text) / stats.kv_tokens
        table.append(("KV cache unpruned", f"{readable_bytes(size)}  ({tokens + text:,} tokens)"))
    return table


def text(table: Sequence[tuple[str, str]]) -> str:
    """The rows as aligned lines."""
    width = max(len(name) for name, _ in table)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in table)


def readable_bytes(size: float) -> str:
    """As in 1.5 MiB."""
    if size < 1024:
        return f"{size:.0f} B"
    power = 1
    while power < 4 and size >= 1024 ** (power + 1):
        power += 1
    return f"{size / 1024**power:.1f} {'KMGT'[power - 1]}iB"


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.1%}"
