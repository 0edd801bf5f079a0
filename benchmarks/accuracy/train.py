"""Trains the small model for streaming shapes: `python3 -m benchmarks.accuracy.train --out DIR --seed 0`.

1. The vision tower learns, from dense labels on two-step clips, what each token shows (train_tower.py).
2. The tower is frozen. The language model learns to answer, ten questions packed behind each clip (packing.py), on
   clips that grow from 2 to 32 steps (curriculum.py), most of them pruned, by one of four rules, with losses on
   inner states of visual tokens: where and when they are, what is new or gone at them, what was seen so far.

A run may be killed at any time and goes on where its last checkpoint, at most two minutes old, left it: the same
command again; killed or not, one kind of machine comes to the same weights. In DIR: checkpoint.pt (all that is needed
to go on), log.jsonl (losses, accuracies by type), and model.safetensors (the weights' moving average as
`streamprune_triton.shapes.model.load` takes it). On a GPU: `--device cuda --rows 60000 --width 192`.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import numpy as np
import torch

from streamprune_triton.shapes import model as small
from streamprune_triton.shapes import questions

from . import curriculum
from .batch import Batch
from .measure import TRAINING, VALIDATION, batches, mean, scores
from .network import Network
from .optimizers import Average, Optimizers
from .pool import Pool
from .records import Records
from .train_tower import tower_step

RATE = 2e-3
POOL = {2: 512, 4: 512, 8: 384, 16: 320, 32: 128}  # clips held, by their steps
CHECKPOINT, REPORT = 120.0, 50  # seconds, steps
VALIDATE = 1409  # steps from the first to the next: validation draws random numbers too, and these gave what ships


class Run:
    """A training run.

    Args:
        options: as parsed by `arguments`.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.records = options, Records(options.out, CHECKPOINT)
        model, processor = small.build(options.width, options.layers, options.tower_width, options.tower_layers)
        torch.manual_seed(options.seed)
        initialise(model)
        self.net = Network(model, processor).to(options.device).train()
        inner, tower = model.model.language_model, model.model.visual
        heads = self.net.tower_heads, self.net.text_heads
        self.tower = Optimizers([tower, *heads[0]], [*tower.blocks, tower.merger], RATE)
        self.text = Optimizers([inner, model.lm_head, *heads[1]], list(inner.layers), RATE)
        self.average = Average(model)
        self.steps = {"tower": 0, "text": 0}
        self._pools: dict[int, Pool] = {}
        self._validation: list[Batch] = []

    def train(self) -> None:
        """Both stages to their end."""
        self.load()
        while any(self.steps[stage] < self.goal(stage) for stage in self.steps):
            stage = "tower" if self.steps["tower"] < self.goal("tower") else "text"
            (self.tower_step if stage == "tower" else self.text_step)()
            if self.steps[stage] % REPORT == 0:
                self.records.report(stage, self.steps[stage])
            if stage == "text" and self.steps["text"] % VALIDATE == 1:
                self.validate()
            if self.records.due():
                self.save()
        self.validate()
        self.save()

    def goal(self, stage: str) -> int:
        return int(getattr(self.options, f"{stage}_steps"))

    def rate(self, stage: str) -> float:
        """Share of the highest rate: rises for 100 steps, falls to 2 % in the last 30 % of the stage."""
        step, goal = self.steps[stage], self.goal(stage)
        return min(1.0, (step + 1) / 100, max(0.02, (goal - step) / (0.3 * goal)))

    def tower_step(self) -> None:
        seed = TRAINING + 100_000_000 * self.options.seed + self.steps["tower"]
        with self.precision():
            loss, told = tower_step(self.net, seed, self.options.device)
        self.tower.step(loss, self.rate("tower"))
        self.count("tower", told | {"loss": loss.item()})

    def text_step(self) -> None:
        progress = self.steps["text"] / self.goal("text")
        rng = np.random.default_rng((self.options.seed, self.steps["text"]))
        task = curriculum.draw(rng, progress, self.net.words.rows(curriculum.QUESTIONS), self.options.rows)
        batch = self.pool(task.steps).draw(rng, task.clips, curriculum.QUESTIONS)
        behind_time = torch.from_numpy(rng.random(batch.size) < 0.5).to(batch.x.device)
        with self.precision():
            losses, right = self.net.losses(batch, curriculum.keep(task, batch), behind_time)
        self.text.step(torch.stack([loss.float() for loss in losses.values()]).sum(), self.rate("text"))
        self.average.update()
        shares = by_type(batch, right)
        self.count("text", {name: loss.item() for name, loss in losses.items()} | shares)

    def precision(self) -> torch.autocast:
        device = self.options.device.split(":")[0]
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.options.bf16)

    def pool(self, steps: int) -> Pool:
        if steps not in self._pools:
            first = TRAINING + 100_000_000 * self.options.seed + 10_000_000 * (1 + steps.bit_length())
            self._pools[steps] = Pool(self.net.features, steps, POOL[steps], first + self.steps["text"] * 10)
            mixture = curriculum.mixture(self.steps["text"] / self.goal("text"))
            self._pools = {n: pool for n, pool in self._pools.items() if n in mixture or n == steps}
        return self._pools[steps]

    def count(self, stage: str, values: dict[str, float]) -> None:
        self.steps[stage] += 1
        self.records.count(values)

    def validate(self) -> None:
        """Logs the accuracy of the averaged weights on validation clips, of all tokens and of the last 15 %."""
        with self.average.applied():
            if not self._validation:
                self._validation = list(batches(self.net, VALIDATION, 16, self.options.validation, 12))
            for share in (1.0, 0.15):
                found = scores(self.net, self._validation, share)
                types = {name: round(score.share, 4) for name, score in found.items()}
                self.records.log({"kept": share, "step": self.steps["text"], "mean": round(mean(found), 4), **types})
            small.save(self.net.model, self.records.folder / "model.tmp")
        os.replace(self.records.folder / "model.tmp", self.records.folder / "model.safetensors")

    def save(self) -> None:
        parts = {name: getattr(self, name).state_dict() for name in ("net", "tower", "text", "average")}
        self.records.save({**parts, "steps": self.steps, "pools": {n: p.state_dict() for n, p in self._pools.items()}})

    def load(self) -> None:
        """Goes on from the checkpoint, where there is one."""
        if state := self.records.load(self.options.device):
            for name in ("net", "tower", "text", "average"):
                getattr(self, name).load_state_dict(state[name])
            self.steps = state["steps"]
            for steps, held in state["pools"].items():
                self._pools[steps] = Pool(self.net.features, steps, POOL[steps], 0)
                self._pools[steps].load_state_dict(held)


def initialise(model: Any) -> None:
    """Small random weights. Queries and keys begin with biases: with rotary positions, heads that look some way off."""
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
            torch.nn.init.normal_(module.weight, std=0.02)
    for layer in model.model.language_model.layers:
        torch.nn.init.normal_(layer.self_attn.q_proj.bias)
        torch.nn.init.normal_(layer.self_attn.k_proj.bias)


def by_type(batch: Batch, right: torch.Tensor) -> dict[str, float]:
    """The share of right answers for each type that was asked, as "right TYPE"."""
    kind, there = questions.TYPE_OF[batch.text.cpu().numpy()], (batch.answer >= 0).cpu().numpy()
    hits = right.cpu().numpy()
    asked = [(n, name) for n, name in enumerate(questions.TYPES) if (there & (kind == n)).any()]
    return {f"right {name}": float(hits[there & (kind == n)].mean()) for n, name in asked}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder of the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tower-steps", type=int, default=1500)
    parser.add_argument("--text-steps", type=int, default=2400)
    parser.add_argument("--rows", type=int, default=curriculum.ROWS, help="of text and visual tokens in a batch")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tower-width", type=int, default=64)
    parser.add_argument("--tower-layers", type=int, default=3)
    parser.add_argument("--validation", type=int, default=96, help="clips")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


if __name__ == "__main__":
    options = arguments()
    torch.set_default_device(options.device)
    Run(options).train()
