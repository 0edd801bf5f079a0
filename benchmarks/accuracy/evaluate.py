"""How good a trained model is: `python3 -m benchmarks.accuracy.evaluate MODEL.safetensors ... > rows.csv`.

Test questions about clips of 8, 16 and 32 steps; for each type the share of right answers with Wilson's 95 % interval.
Several models (training seeds) are reported one by one. On the same questions:

    majority    the most frequent answer to the type
    blind       the most frequent answer to the very words
    last step   the model, shown nothing but the last step
"""

from __future__ import annotations

import argparse
import csv
import sys

from streamprune_triton.shapes import model as small

from .baselines import guessed, guesses, last_step
from .measure import TEST, VALIDATION, Score, batches, mean, scores
from .network import Network

STEPS = (8, 16, 32)
COUNT = 12  # questions a clip
FIELDS = ("model", "kept", "steps", "type", "right", "asked", "share", "low", "high")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--questions", type=int, default=2400, help="in all, shared out over the lengths of clips")
    parser.add_argument("--kept", type=float, nargs="+", default=[1.0, 0.5, 0.3, 0.15], help="shares of tokens")
    options = parser.parse_args()
    out = csv.DictWriter(sys.stdout, FIELDS)
    out.writeheader()
    for path in options.models:
        evaluate(out, path, options.questions, options.kept)


def evaluate(out: csv.DictWriter[str], path: str, count: int, kept: list[float]) -> None:
    """Writes a model's rows, and those of the baselines beside it."""
    net = Network(*small.load(path)).eval()
    for steps in STEPS:
        given = list(batches(net, TEST, steps, -(-count // len(STEPS) // COUNT), COUNT))
        for share in kept:
            write(out, path, f"{share:g}", steps, scores(net, given, share))
        write(out, path, "last step", steps, scores(net, [last_step(batch) for batch in given], 1.0))
        for name, guess in zip(("majority", "blind"), guesses(VALIDATION, steps, clips=1000), strict=True):
            write(out, name, "", steps, guessed(given, guess))


def write(out: csv.DictWriter[str], name: str, kept: str, steps: int, found: dict[str, Score]) -> None:
    for kind, score in found.items():
        low, high = score.interval
        row = (name, kept, steps, kind, score.right, score.asked, f"{score.share:.4f}", f"{low:.4f}", f"{high:.4f}")
        out.writerow({field: str(value) for field, value in zip(FIELDS, row, strict=True)})
    print(f"{name} kept {kept or '-'} steps {steps}: {mean(found):.1%}", file=sys.stderr)


if __name__ == "__main__":
    main()
