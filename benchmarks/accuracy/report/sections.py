"""What the README says of each table: a heading, what was asked, Markdown tables, and a link to the plot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..marks import ALL, SPATIAL
from ..rows import Row
from .card import by_type
from .front import front
from .markdown import conditions, folded, percent, plain, points, table
from .results import Results
from .texts import TEXTS

MAIN = ("ours", "DTD alone", "MSSAVT alone", "VidCom2", "DivPrune", "random")
BY_TYPE = ("85%", "92%")
PLOTS = "../results/accuracy"
MOTION = "motion"  # in the names of the groups that have each clip once


def block(found: Results) -> str:
    """What stands between the markers."""
    parts = []
    for name in found.tables:
        title, note = TEXTS.get(name, (name.capitalize(), ""))
        parts += [f"## {title}", *([note] if note else [])]
        parts += SECTIONS.get(name, generic)(found, name)
    return "\n" + "".join(part + "\n\n" for part in (*parts, conditions(found.rows)))


def ratios(found: Results, name: str) -> list[str]:
    settings = [each for each in found.settings(name) if each != "0%"]
    methods = [each for each in found.methods(name, settings[0]) if each != "unpruned"]
    heads = [f"{each} dropped" for each in settings]
    shares = [[m, *(percent(found.share(name, s, m)) for s in settings)] for m in methods]
    whole = percent(found.share(name, "0%", "unpruned"))
    ahead = [[m, *(points(found.ahead(name, s, m)) for s in settings)] for m in [*methods[1:], "unpruned"]]
    kinds = {s: {"unpruned": ("0%", "unpruned"), **{m: (s, m) for m in MAIN}} for s in BY_TYPE if s in settings}
    low = {each: ("0%", each) for each in ("unpruned", "last step", "blind", "majority")}
    return [
        table([["right, %", *heads], *shares, ["nothing dropped", *[whole] * len(heads)]]),
        f"![Accuracy over the share dropped]({PLOTS}/ratios.png)",
        table([["ours ahead of, points", *heads], *ahead]),
        *(folded(f"By type, {setting} dropped", by_type(found, columns)) for setting, columns in kinds.items()),
        folded("Without the clip's past (last step), without the clip (blind, majority)", by_type(found, low)),
    ]


def masks(found: Results, name: str) -> list[str]:
    first = found.methods(name)[0]
    parts = [f"![Behind the checkerboard, in points]({PLOTS}/masks.png)"]
    for setting in found.settings(name):
        lines = [[f"{setting} dropped", "all", f"{first} ahead", "spatial questions", f"{first} ahead"]]
        for method in found.methods(name, setting):
            at = (name, setting, method)
            cells = [percent(found.share(*at)), points(found.ahead(*at))]
            lines.append([method, *cells, percent(found.share(*at, SPATIAL)), points(found.ahead(*at, SPATIAL))])
        parts.append(table(lines))
    return parts


def content(found: Results, name: str) -> list[str]:
    thirds = [row for row in found.rows if row.table == name and MOTION in row.setting]
    found = Results([*(row for row in found.rows if row.table == name), *together(thirds)])
    methods = found.methods(name)
    lines = [["", "questions", *methods, *(f"{methods[0]} ahead of {each}" for each in methods[1:])]]
    for setting in found.settings(name):
        asked = found.cell(name, setting, methods[0])[0].asked
        shares = [percent(found.share(name, setting, each)) for each in methods]
        ahead = [points(found.ahead(name, setting, each)) for each in methods[1:]]
        lines.append([setting, f"{asked:,}", *shares, *ahead])
    return [table(lines)]


def together(thirds: list[Row]) -> list[Row]:
    """A row "all SHARE" for each method, kind and seed, of groups "GROUP SHARE" that have each clip once."""
    groups: dict[tuple[str, str, str, int], list[Row]] = {}
    for row in thirds:
        groups.setdefault((row.setting.split()[-1], row.method, row.kind, row.seed), []).append(row)
    return [_sum(f"all {share}", rows) for (share, *_), rows in groups.items()]


def _sum(setting: str, rows: list[Row]) -> Row:
    right, asked, clips = (sum(getattr(row, name) for row in rows) for name in ("right", "asked", "clips"))
    spread = sum((row.asked / asked * (row.spread or 0.0)) ** 2 for row in rows) ** 0.5
    told = replace(rows[0], setting=setting, right=right, asked=asked, clips=clips)
    return replace(told, spread=None if rows[0].spread is None else spread)


def thresholds(found: Results, name: str) -> list[str]:
    settings = found.settings(name)
    temporal, spatial = (list(dict.fromkeys(each.split()[n] for each in settings)) for n in (0, 1))
    best = front(found)
    lines = [["right, % (dropped, %)", *spatial]]
    for row in temporal:
        lines.append([row, *(_pair(found, f"{row} {column}", best) for column in spatial)])
    told = "Bold: on the Pareto front, no other pair drops more and is right more often."
    return [table(lines), told, f"![Accuracy and share dropped, by thresholds]({PLOTS}/thresholds.png)"]


def _pair(found: Results, setting: str, best: list[str]) -> str:
    share = found.share("thresholds", setting, "thresholds")
    if share is None:
        return ""
    told = f"{100 * share.value:.1f} ({plain(found.dropped('thresholds', setting, 'thresholds'))})"
    return f"**{told}**" if setting in best else told


def generic(found: Results, name: str) -> list[str]:
    """A line for each setting and method; what a setting's first method is ahead of the others by."""
    lines = [["setting", "method", "dropped, %", "right, %", "first ahead", "spatial questions", "first ahead"]]
    for setting in found.settings(name):
        for n, method in enumerate(found.methods(name, setting)):
            at = (name, setting, method)
            cells = [cell(*at, kind) for kind in (ALL, SPATIAL) for cell in (found.share, found.ahead)]
            told = [as_text(cell) for as_text, cell in zip((percent, points) * 2, cells, strict=True)]
            lines.append(["" if n else setting, method, plain(found.dropped(*at)), *told])
    return [table(lines, names=2)]


SECTIONS: dict[str, Callable[[Results, str], list[str]]] = {
    "ratios": ratios,
    "masks": masks,
    "content": content,
    "thresholds": thresholds,
}
