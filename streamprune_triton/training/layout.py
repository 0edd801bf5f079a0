"""A question about a clip and its answer, laid out as a streaming session would read them, for one forward.

The session's own code places the rows and says who sees whom: what is trained is what runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import models
from ..attribution import attribute
from ..config import PruneConfig
from ..models.base import DeepStack, Features
from ..models.positions import Cursor
from ..pruner import StreamPruner, prune
from ..streaming.frames import checked
from ..streaming.generation import Decoding
from ..streaming.ingest import check_bound
from ..streaming.keeping import Keeping
from ..streaming.memory import Memory
from ..streaming.past import Block, Past, Reading
from ..streaming.reader import Reader, stacked
from ..streaming.rows import Rows
from ..streaming.steps import Plan, Pruned, plan
from ..transfer import on_host

IGNORED = -100  # the label of a row whose token is not learned
Config = PruneConfig | Callable[[int], PruneConfig]


@dataclass(frozen=True)
class Sample:
    """A clip, a question behind it, and the answer to be given.

    Attributes:
        frames: (N, height, width, 3) uint8 RGB.
        fps: raw frames a second.
    """

    frames: np.ndarray
    question: str
    answer: str
    fps: float = 1.0


class Inputs(NamedTuple):
    """What `Adapter.forward` takes of L rows, without a cache, and what is to be learned."""

    embeds: torch.Tensor  # (L, D), part of autograd's graph
    positions: torch.Tensor  # (A, L) int64
    mask: torch.Tensor  # (L, L) bool, True where the row sees the column
    deepstack: DeepStack | None
    labels: torch.Tensor  # (L,) int64, the row's own token id for those of the answer, else IGNORED


class Composer:
    """Lays out samples for a model under a memory.

    The order is a session's: the text in front of the video; of each step its text, kept tokens, carrier, text; the
    question and the answer. So is the mask: in "carriers" mode the semantic-aware one (VideoScan, arXiv 2503.09387)
    as `semantic_mask` has it, in which carriers beyond `max_carriers` are seen until their merging.

    Args:
        model: of a supported family, or a peft model of one.
        processor: the model's, as `models.load` gives it.
        memory: what stays of the frames; by default "carriers".
        system: the system text; None leaves it to the chat template.

    Attributes:
        adapter: of the model, with gradients.

    Raises:
        ValueError, TypeError: naming the argument.
    """

    def __init__(self, model: Any, processor: Any, memory: Memory | None = None, system: str | None = None) -> None:
        self.memory = Memory("carriers") if memory is None else memory
        if not isinstance(self.memory, Memory):
            raise TypeError(f"memory must be a Memory or None, got {type(memory).__name__}")
        if self.memory.positions != "absolute":
            raise ValueError(f'memory.positions must be "absolute" in training, got {self.memory.positions!r}')
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.adapter = models.adapter(base)(base, processor)
        self.adapter.gradients = True
        self._system = system
        self._readers: dict[float, Reader] = {}

    @on_host
    def __call__(self, sample: Sample, config: Config) -> Inputs:
        """The rows of a sample.

        Args:
            sample: where its frames end within a step of the model, the last is repeated, as `ask` does.
            config: what to drop, or a function from the number of a step's tokens to it.

        Raises:
            ValueError, TypeError: naming the argument.
        """
        if not isinstance(sample, Sample):
            raise TypeError(f"sample must be a Sample, got {type(sample).__name__}")
        reader, frames = self._reader(sample), checked(sample.frames, None)
        if not len(frames):
            raise ValueError("frames must be at least one, got none")
        ids, labels = self._texts(reader, sample)
        missing = -len(frames) % self.adapter.frames_per_step
        frames = np.concatenate([frames, frames[-1:].repeat(missing, axis=0)])
        features = self.adapter.features(self.adapter.pixels(frames))
        area = features.x.shape[1] * features.x.shape[2]
        steps = self._plan(reader, features, config if isinstance(config, PruneConfig) else config(area), missing)
        return self._joined(reader, steps, ids, labels)

    def _reader(self, sample: Sample) -> Reader:
        fps = float(sample.fps)
        if not 0 < fps < float("inf"):
            raise ValueError(f"fps must be above 0 and finite, got {sample.fps}")
        if fps not in self._readers:
            self._readers[fps] = Reader(self.adapter, self.memory, fps, self._system)
        return self._readers[fps]

    def _texts(self, reader: Reader, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        """(L,) ids of question and answer, what the template puts around them included, and their labels."""
        asked = reader.talk.question((), sample.question, True)
        system = [] if self._system is None else [{"role": "system", "content": self._system}]
        told = self.adapter.text([*system, *reader.talk.turn(sample.question, sample.answer, True)], answer=False)[-1]
        if torch.equal(told[: len(asked)], asked):
            answer = told[len(asked) :]
        else:  # the template begins an answer otherwise when it is to be given than when it is over
            words = self.adapter.processor.tokenizer(sample.answer, add_special_tokens=False)["input_ids"]
            answer = torch.tensor(words, dtype=torch.int64)
        answer = self._ended(answer)
        return torch.cat([asked, answer]), torch.cat([torch.full_like(asked, IGNORED), answer])

    def _ended(self, answer: torch.Tensor) -> torch.Tensor:
        """Up to the first token that ends an answer, which is put there where there is none."""
        usual = self.adapter.processor.tokenizer.eos_token_id
        ends = Decoding.of(self.adapter.model.generation_config).eos or {usual}
        at = torch.isin(answer, torch.tensor(sorted(ends))).nonzero().flatten()
        end = usual if usual in ends else min(ends)
        return answer[: at[0] + 1] if len(at) else torch.cat([answer, torch.tensor([end])])

    def _plan(self, reader: Reader, features: Features, config: PruneConfig, missing: int) -> Plan:
        """The steps' rows, behind a past that has read the text in front of the video."""
        grid = (features.x.shape[1], features.x.shape[2])
        if self.memory.carriers and config.carrier is None:
            raise ValueError(f'config.carrier must be "all" or "kept" for memory mode {self.memory.mode!r}, got None')
        check_bound(reader, config, features.x)
        past = self._opened(reader, config)
        pruned = _pruned(features, config, self.memory.carriers)
        return plan(past, pruned, self.adapter, reader.layout(grid), reader.fps, config, missing)

    def _opened(self, reader: Reader, config: PruneConfig) -> Past:
        from ..cache import CarrierCache

        count, cache = len(reader.talk.opening), CarrierCache(self.adapter.model.config)
        past = Past(cache, Rows.none(reader.axes), Keeping(self.memory), StreamPruner(config))
        return replace(past, blocks={0: Block(count, 0, False)}, cursor=Cursor(count), number=1)

    def _joined(self, reader: Reader, steps: Plan, ids: torch.Tensor, labels: torch.Tensor) -> Inputs:
        past, opening = steps.past, reader.talk.opening
        end = reader.end(past)
        parts = [self._text(0, 0, opening, reader.axes), *steps.readings]
        parts.append(self._text(past.number, end, ids, reader.axes))
        rows = Rows.none(reader.axes).then([each.rows for each in parts])
        rows = rows.dying([death for each in steps.deaths for death in each], self.memory.carriers)
        return Inputs(
            torch.cat([each.embeds for each in parts]),
            torch.from_numpy(rows.position),
            rows.sight(len(rows)),
            stacked(parts),
            torch.cat([torch.full((len(rows) - len(ids),), IGNORED), labels]),
        )

    def _text(self, block: int, first: int, ids: torch.Tensor, axes: int) -> Reading:
        return Reading(block, self.adapter.embed(ids), Rows.text(block, first, len(ids), axes))


def _pruned(features: Features, config: PruneConfig, carriers: bool) -> Pruned:
    """As `Pruned.of`, with gradients through tokens and carriers."""
    result = prune(features.x, config)
    fate = attribute(result, config)
    pooled = result.carriers.detach().float().cpu().numpy() if carriers and result.carriers is not None else None
    return Pruned(result, features.levels, fate, pooled)
