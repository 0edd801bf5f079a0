"""The rows of a run by table, setting, method and kind of question; a cell has a row for each training seed."""

from __future__ import annotations

from collections.abc import Iterable

from ..marks import ALL
from ..rows import Row
from .statistics import Interval, difference, share


class Results:
    """Rows, looked up.

    Args:
        rows: of one run.

    Raises:
        ValueError: there is none.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)
        if not self.rows:
            raise ValueError("the file of results has no rows: run python3 -m benchmarks.accuracy")
        self._cells: dict[tuple[str, str, str, str], list[Row]] = {}
        for row in self.rows:
            self._cells.setdefault((row.table, row.setting, row.method, row.kind), []).append(row)

    @property
    def tables(self) -> list[str]:
        return list(dict.fromkeys(row.table for row in self.rows))

    def settings(self, table: str) -> list[str]:
        return list(dict.fromkeys(row.setting for row in self.rows if row.table == table))

    def methods(self, table: str, setting: str | None = None) -> list[str]:
        """In the order of the run; the first of a setting is the reference of the others."""
        chosen = (row for row in self.rows if row.table == table and setting in (None, row.setting))
        return list(dict.fromkeys(row.method for row in chosen))

    def cell(self, table: str, setting: str, method: str, kind: str = ALL) -> list[Row]:
        """Its rows, one for each training seed; none where it was not run."""
        return self._cells.get((table, setting, method, kind), [])

    def share(self, table: str, setting: str, method: str, kind: str = ALL) -> Interval | None:
        """The share of right answers."""
        found = self.cell(table, setting, method, kind)
        return share(found) if found else None

    def ahead(self, table: str, setting: str, method: str, kind: str = ALL) -> Interval | None:
        """By how much the reference of the setting is ahead of a method; None for the reference itself."""
        first = self.methods(table, setting)[:1]
        found = self.cell(table, setting, method, kind)
        if not found or first == [method]:
            return None
        return difference(self.cell(table, setting, first[0], kind), found)

    def dropped(self, table: str, setting: str, method: str) -> float | None:
        """The mean over training seeds."""
        found = [row.dropped for row in self.cell(table, setting, method) if row.dropped is not None]
        return sum(found) / len(found) if found else None
