"""VideoScan's two stages on the shapes task: `python3 -m benchmarks.accuracy.carriers.train --out DIR`.

1. Carriers are all that the language model is shown of a clip; it and the vision tower learn, the tower through the
   mean that a carrier is.
2. The tower is frozen. The language model learns under the semantic-aware mask: carriers stand behind their step's
   tokens, whole or pruned; steps and questions see what a session's memory would hold, of a kind drawn for each clip.
   Every other batch is one of the training before, without carriers, so that what it taught stays.

In both, heads on carriers' inner states are taught what is in a step and what was seen so far (knowledge.py).

A run may be killed at any time and goes on where its last checkpoint left it, to the same weights: the same command
again. In DIR: checkpoint.pt, log.jsonl, one.safetensors (after the first stage) and model.safetensors. `--one-steps 0`
is the second stage alone.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamprune_triton.shapes import model as small

from .. import curriculum as before
from ..batch import Batch
from ..measure import TRAINING, VALIDATION, batches, least, tally
from ..optimizers import Average, Optimizers
from ..pool import Pool
from ..records import Records
from ..train import POOL, by_type
from . import curriculum, modes
from .network import CarrierNetwork

CHECKPOINT, REPORT, VALIDATE, SPAN = 60.0, 25, 100, 100  # seconds, steps, steps, steps of the moving average
REUSE = 8  # batches in which a clip of the second stage is, on average
SEEDS = 90_000_000  # of clips: behind those of the first training with the same seed
MODES = {"alone": modes.ALONE, "carriers": modes.CARRIERS, "hybrid 2": modes.hybrid(2), "tokens": modes.TOKENS}


class Run:
    """A training run.

    Args:
        options: as parsed by `arguments`.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.records = options, Records(options.out, CHECKPOINT)
        torch.manual_seed(options.seed)
        self.net = CarrierNetwork(*small.load(options.weights)).to(options.device).train()
        self.net.model.set_attn_implementation("eager")  # on CPUs bf16 is slower in the fused one, with a mask
        self.stage = "one"
        self.steps = {"one": 0, "two": 0}
        self.begin_stage("one")
        self._pools: dict[int, Pool] = {}

    def begin_stage(self, stage: str) -> None:
        """Fresh optimizers and averages."""
        model = self.net.model
        inner, tower = model.model.language_model, model.model.visual
        modules = [inner, model.lm_head, *self.net.carrier_heads]
        layers = list(inner.layers)
        if stage == "one":
            modules += [tower, *self.net.tower_heads, self.net.pool]
            layers += [*tower.blocks, tower.merger]
        else:
            modules += self.net.text_heads
        self.stage = stage
        self.optimizers = Optimizers(modules, layers, self.options.rate)
        self.average = Average(model, SPAN)

    def train(self) -> None:
        """Both stages to their end."""
        self.load()
        for stage in ("one", "two"):
            if self.stage != stage and self.steps[stage] < self.goal(stage):
                self.end_stage()
                self.begin_stage(stage)
            while self.stage == stage and self.steps[stage] < self.goal(stage):
                self.step()
                if self.records.due():
                    self.save()
        self.end_stage()
        self.save()

    def end_stage(self) -> None:
        """The averaged weights are what the next stage begins with."""
        if self.steps[self.stage]:
            self.net.model.load_state_dict(self.average.weights)
            if self.steps[self.stage] % VALIDATE:  # else it was just done
                self.validate()
        small.save(
            self.net.model, self.records.folder / ("one.safetensors" if self.stage == "one" else "model.safetensors")
        )

    def goal(self, stage: str) -> int:
        return int(getattr(self.options, f"{stage}_steps"))

    def rate(self) -> float:
        """Share of the highest rate: rises for 50 steps, falls to 2 % in the last 60 % of the stage."""
        step, goal = self.steps[self.stage], self.goal(self.stage)
        return min(1.0, (step + 1) / 50, max(0.02, (goal - step) / (0.6 * goal)))

    def step(self) -> None:
        """One batch of the stage."""
        number = self.steps[self.stage]
        rng = np.random.default_rng((self.options.seed, number, len(self.stage)))
        batch, losses, right = self.first(rng) if self.stage == "one" else self.second(rng)
        self.optimizers.step(torch.stack([loss.float() for loss in losses.values()]).sum(), self.rate())
        self.average.update()
        self.count({name: loss.item() for name, loss in losses.items()} | by_type(batch, right))

    def first(self, rng: np.random.Generator) -> tuple[Any, ...]:
        seed = TRAINING + 100_000_000 * self.options.seed + SEEDS + self.steps["one"]
        batch = curriculum.first(self.net, rng, seed, self.options.device)
        with self.precision():
            losses, right = self.net.carrier_losses(batch, *curriculum.nothing(batch), self.behind(rng, batch.size))
            return batch, losses | self.net.pooled(batch) | self.net.seen(batch.x, batch.labels), right

    def second(self, rng: np.random.Generator) -> tuple[Any, ...]:
        if rng.random() < self.options.plain:
            return self.plain(rng)
        task = curriculum.second(rng, self.net.words.rows(curriculum.QUESTIONS_TWO), self.options.rows)
        batch = self.pool(task.steps).draw(rng, task.clips, curriculum.QUESTIONS_TWO)
        keep = curriculum.keep(task, batch)
        dies = curriculum.dies(rng, batch, keep)
        with self.precision():
            return batch, *self.net.carrier_losses(batch, keep, dies, self.behind(rng, batch.size))

    def plain(self, rng: np.random.Generator) -> tuple[Any, ...]:
        """A batch as at the end of the training before: no carriers."""
        task = before.draw(rng, 1.0, self.net.words.rows(before.QUESTIONS), self.options.rows)
        batch = self.pool(task.steps).draw(rng, task.clips, before.QUESTIONS)
        with self.precision():
            losses, right = self.net.losses(batch, before.keep(task, batch), self.behind(rng, batch.size))
        return batch, losses, right

    def behind(self, rng: np.random.Generator, clips: int) -> torch.Tensor:
        return torch.from_numpy(rng.random(clips) < 0.5).to(self.options.device)

    def precision(self) -> torch.autocast:
        device = self.options.device.split(":")[0]
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.options.bf16)

    def pool(self, steps: int) -> Pool:
        if steps not in self._pools:
            first = TRAINING + 100_000_000 * self.options.seed + SEEDS + 1_000_000 * steps.bit_length()
            self._pools[steps] = Pool(self.net.features, steps, POOL[steps], first + self.steps["two"] * 10, REUSE)
        return self._pools[steps]

    def count(self, values: dict[str, float]) -> None:
        self.steps[self.stage] += 1
        step = self.steps[self.stage]
        self.records.count(values)
        if step % REPORT == 0:
            self.records.report(self.stage, step)
        if step % VALIDATE == 0:
            with self.average.applied():
                self.validate()

    @torch.no_grad()
    def validate(self) -> None:
        """Logs the accuracy on validation clips, of which 30 % of the tokens are kept, in each way of remembering."""
        given = list(batches(self.net, VALIDATION, 16, self.options.validation, 12))
        for name, mode in MODES.items():
            found = tally(given, partial(self.right, mode))
            types = {kind: round(score.share, 3) for kind, score in found.items()}
            whole = sum(score.right for score in found.values()) / sum(score.asked for score in found.values())
            told = {"mode": name, "stage": self.stage, "step": self.steps[self.stage], "all": round(whole, 4)}
            self.records.log(told | types)

    def right(self, mode: modes.Mode, batch: Batch) -> torch.Tensor:
        return mode.correct(self.net, batch, least(batch, 0.3))

    def save(self) -> None:
        parts = {name: getattr(self, name).state_dict() for name in ("net", "optimizers", "average")}
        pools = {n: pool.state_dict() for n, pool in self._pools.items()}
        self.records.save({**parts, "stage": self.stage, "steps": self.steps, "pools": pools})

    def load(self) -> None:
        """Goes on from the checkpoint, where there is one."""
        if state := self.records.load(self.options.device):
            self.begin_stage(state["stage"])
            for name in ("net", "optimizers", "average"):
                getattr(self, name).load_state_dict(state[name])
            self.steps = state["steps"]
            for steps, held in state["pools"].items():
                self._pools[steps] = Pool(self.net.features, steps, POOL[steps], 0, REUSE)
                self._pools[steps].load_state_dict(held)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder of the run")
    parser.add_argument("--weights", type=Path, default=small.PLAIN, help="to begin with (default: as shipped)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one-steps", type=int, default=400)
    parser.add_argument("--two-steps", type=int, default=1800)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="of learning, at its highest")
    parser.add_argument(
        "--rows", type=int, default=before.ROWS, help="of text and visual tokens in a batch of the second stage"
    )
    parser.add_argument("--plain", type=float, default=0.5, help="share of batches without carriers")
    parser.add_argument("--validation", type=int, default=48, help="clips")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


if __name__ == "__main__":
    options = arguments()
    torch.set_default_device(options.device)
    Run(options).train()
