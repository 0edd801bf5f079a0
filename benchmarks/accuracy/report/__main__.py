"""`python3 -m benchmarks.accuracy.report`: tables in this folder's README.md and the model card, and plots, from rows.

Of `full.csv` in the folder of results, where it is there, else of `quick.csv`; the card of `shipped.csv`, where it is
there, since the tables may be of other trainings.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path

from streamprune_triton.shapes import model as small

from ...generated import settle
from .. import rows
from ..__main__ import RESULTS
from .card import card
from .plots import plots
from .results import Results
from .sections import block

README = Path(__file__).resolve().parents[1] / "README.md"
CARD = small.WEIGHTS.parent / "README.md"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.accuracy.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSVs")
    parser.add_argument("--readme", type=Path, default=README, help="file with the markers")
    parser.add_argument("--card", type=Path, default=CARD, help="model card with the markers")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a table is another")
    options = parser.parse_args(argv)

    @cache
    def found() -> Results:
        return load(options.results)

    def tables() -> dict[Path, str]:
        return {
            options.readme: block(found()),
            options.card: card(shipped(options.results), rows.digest(small.WEIGHTS)),
        }

    def pictures() -> dict[Path, bytes]:
        return {options.results / f"{name}.png": picture for name, picture in plots(found()).items()}

    return settle("accuracy.report", tables, pictures, options.check)


def load(folder: Path) -> Results:
    """The rows of the longer run that is there. Raises OSError where there is none."""
    full = folder / "full.csv"
    return Results(rows.read(full if full.exists() else folder / "quick.csv"))


def shipped(folder: Path) -> Results:
    """The rows of the shipped weights. Raises OSError where there is none."""
    own = folder / "shipped.csv"
    return Results(rows.read(own)) if own.exists() else load(folder)


if __name__ == "__main__":
    sys.exit(main())
