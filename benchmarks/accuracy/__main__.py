"""`python3 -m benchmarks.accuracy`: right answers of the trained small model, by what is dropped and how; rows as CSV.

Test clips, on none of which it was trained, with twelve questions each; every method keeps the same number of tokens
of each clip. `--quick` takes about two minutes on one core, all of it about ten. Then:
`python3 -m benchmarks.accuracy.report` puts the rows into the tables.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamprune_triton.shapes import model as small
from streamprune_triton.shapes import questions

from ..rows import CHECKOUT
from . import rows
from .baselines import guessed, guesses, last_step
from .batch import Batch
from .measure import TEST, VALIDATION, Score, batches, correct, least, tally
from .methods import METHODS, budget, kept
from .network import Network

RESULTS = CHECKOUT / "benchmarks" / "results" / "accuracy"
STEPS, COUNT = 16, 12  # of a clip: steps, questions
DROPPED = (0.85, 0.92)
CLIPS, QUICK = 1600, 320
Key = tuple[str, float | None]
Scores = dict[str, Score]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} clips in place of {CLIPS}")
    parser.add_argument("--clips", type=int, help="so many clips, rounded up to a multiple of 16")
    parser.add_argument("--weights", type=Path, default=small.WEIGHTS, help="of the model (default: as shipped)")
    parser.add_argument("--out", type=Path, help="CSV file for the rows (results/accuracy/quick.csv or full.csv)")
    options = parser.parse_args(argv)
    out = options.out or RESULTS / ("quick.csv" if options.quick else "full.csv")
    clips = options.clips or (QUICK if options.quick else CLIPS)
    try:
        net = Network(*small.load(options.weights)).eval()
    except (OSError, ValueError) as problem:
        print(f"accuracy: {problem}", file=sys.stderr)
        return 2
    given = list(batches(net, TEST, STEPS, clips, COUNT))
    found = evaluated(net, given)
    rows.write(out, table(found, sum(batch.size for batch in given), rows.digest(options.weights)))
    say(f"rows in {out}")
    return 0


def evaluated(net: Network, given: list[Batch]) -> dict[Key, Scores]:
    """Scores by type, for each method and share dropped, and for the baselines."""
    found: dict[Key, Scores] = {}
    for key, hits in asking(net).items():
        since = time.monotonic()
        found[key] = tally(given, hits)
        tell(key, found[key], time.monotonic() - since)
    for name, guess in zip(("majority", "blind"), guesses(VALIDATION, STEPS, clips=1000), strict=True):
        found[name, None] = guessed(given, guess)
        tell((name, None), found[name, None], 0.0)
    return found


def asking(net: Network) -> dict[Key, Callable[[Batch], torch.Tensor]]:
    """For each method and share, what says which of a batch's questions (B, Q) are answered right."""
    ways: dict[Key, Callable[[Batch], torch.Tensor]] = {
        ("unpruned", 0.0): lambda batch: correct(net, batch, least(batch, 1.0))
    }
    ways |= {(name, share): partial(_pruned, net, name, share) for share in DROPPED for name in METHODS}
    ways["last step", None] = lambda batch: _alone(net, batch)
    return ways


def _pruned(net: Network, name: str, share: float, batch: Batch) -> torch.Tensor:
    return correct(net, batch, kept(METHODS[name], batch.x, budget(STEPS, share)))


def _alone(net: Network, batch: Batch) -> torch.Tensor:
    one = last_step(batch)
    return correct(net, one, least(one, 1.0)).view(batch.text.shape)


def table(found: dict[Key, Scores], clips: int, weights: str) -> list[rows.Row]:
    """A row for each type that was asked, behind one for all of them."""
    told: dict[str, Any] = rows.machine()
    return [
        rows.Row(method, dropped, kind, *score, clips, STEPS, weights, **told)
        for (method, dropped), scores in found.items()
        for kind, score in [(rows.ALL, whole(scores.values())), *((name, scores[name]) for name in questions.TYPES)]
        if score.asked
    ]


def whole(scores: Iterable[Score]) -> Score:
    """All questions together."""
    right, asked = np.sum([tuple(score) for score in scores], axis=0)
    return Score(int(right), int(asked))


def tell(key: Key, scores: Scores, seconds: float) -> None:
    method, dropped = key
    score = whole(scores.values())
    what = method if not dropped else f"{method}, {dropped:.0%} dropped"
    say(f"{what:<30} {score.share:6.1%} of {score.asked:,}   {seconds:.0f} s")


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
