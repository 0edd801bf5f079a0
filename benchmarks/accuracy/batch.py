"""Batches of clips with questions: what the generator makes, as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from streamprune_triton.shapes import questions, render, truth, world

GRID = world.SIDE // truth.TOKEN  # tokens a side
AREA = GRID * GRID  # tokens a step
_PATCH, _MERGE = 4, 2


@dataclass(frozen=True)
class Clips:
    """B clips of T steps.

    Attributes:
        frames: (B, 2T, SIDE, SIDE, 3) uint8.
        labels: of `truth.token_labels`, (B, T*AREA) each, "offset" (B, T*AREA, 2), and "gone": 1 + the colour that
            vanished here.
        known: of `questions.answers`, (B, T, len(TEXTS)) int16.
    """

    frames: torch.Tensor
    labels: dict[str, torch.Tensor]
    known: np.ndarray


@dataclass(frozen=True)
class Batch:
    """What the language model is asked about B clips: Q questions each.

    Attributes:
        x: (B, T, AREA, D) features of the visual tokens.
        labels: as of Clips.
        text, step, answer: (B, Q) of `questions.Questions`.
    """

    x: torch.Tensor
    labels: dict[str, torch.Tensor]
    text: torch.Tensor
    step: torch.Tensor
    answer: torch.Tensor

    @property
    def size(self) -> int:
        return len(self.x)


def make(seed: int, clips: int, steps: int) -> Clips:
    """Clips; the same arguments give the same."""
    return of_world(world.simulate(seed, clips, steps))


def of_world(happens: world.World) -> Clips:
    """The clips of a world."""
    owner = render.owners(happens)
    about = truth.truth(happens, owner)
    labels = truth.token_labels(happens, owner)
    labels["gone"] = vanished(labels["colour"], about)
    flat = {name: torch.from_numpy(value.reshape(len(value), -1, *value.shape[4:])) for name, value in labels.items()}
    return Clips(torch.from_numpy(render.paint(happens, owner)), flat, questions.answers(about))


def asked(
    rng: np.random.Generator,
    x: torch.Tensor,
    labels: dict[str, torch.Tensor],
    known: np.ndarray,
    count: int,
    weight: np.ndarray | None = None,
) -> Batch:
    """A batch with `count` questions a clip, see `questions.draw`."""
    drawn = questions.draw(rng, known, count, weight)
    return Batch(x, labels, *(torch.from_numpy(each.astype(np.int64)).to(x.device) for each in drawn))


def vanished(colour: np.ndarray, about: truth.Truth) -> np.ndarray:
    """(B, T, H, W): the label of the colour that a token showed a step ago if that colour has left since, else 0."""
    before = np.roll(colour, 1, 1)
    before[:, 0] = 0
    gone = np.concatenate([np.zeros_like(about.gone[..., :1]), about.gone], -1)  # (B, T, 1 + C)
    clip = np.arange(len(colour))[:, None, None, None]
    step = np.arange(colour.shape[1])[None, :, None, None]
    return np.where(gone[clip, step, before], before, 0)


def patches(frames: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    """(B*T, patches of a step, 3*2*4*4) float32 of frames (B, 2T, SIDE, SIDE, 3): the processor's numbers and order."""
    side = world.SIDE // (_PATCH * _MERGE)
    each = frames.view(-1, world.STEP, side, _MERGE, _PATCH, side, _MERGE, _PATCH, 3)
    each = each.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)  # step, row, column, 2 x 2, channel, slot, pixels
    scale = torch.tensor(std) * 255
    shift = torch.tensor(mean) / torch.tensor(std)
    channel = (-1, 1, 1, 1)
    normal = each.float() / scale.view(channel) - shift.view(channel)
    return normal.reshape(len(each), side * side * _MERGE**2, -1)


class Words:
    """Token ids of the prompt around a video, and of every question with its answer.

    Args:
        processor: of `shapes.model`.

    Attributes:
        before: (P,) ids in front of the video.
        slots: (len(TEXTS), S) ids behind the video, then a place for the answer's, then padding.
        length: (len(TEXTS),) ids of each question without the answer.
        answers: (len(ANSWERS),) ids.
        end: the id that ends an answer.
    """

    def __init__(self, processor: Any) -> None:
        tokenizer = processor.tokenizer
        video = tokenizer.convert_tokens_to_ids("<|video_pad|>")
        prompts = [_ids(processor, text) for text in questions.TEXTS]
        self.before = torch.tensor(prompts[0][: prompts[0].index(video)])
        after = [ids[ids.index(video) + 1 :] for ids in prompts]
        self.length = torch.tensor([len(ids) for ids in after])
        self.slots = torch.zeros(len(after), int(self.length.max()) + 1, dtype=torch.int64)
        for row, ids in zip(self.slots, after, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        self.answers = torch.tensor([tokenizer.convert_tokens_to_ids(word) for word in questions.ANSWERS])
        self.end = int(tokenizer.convert_tokens_to_ids("<|im_end|>"))

    def rows(self, count: int) -> int:
        """Rows of text in a sequence with so many questions."""
        return len(self.before) + count * self.slots.shape[1]


def _ids(processor: Any, text: str) -> list[int]:
    content = [{"type": "video"}, {"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(processor.tokenizer(prompt)["input_ids"])


@cache
def places() -> torch.Tensor:
    """(AREA, 2) row and column of a step's tokens."""
    return torch.stack(torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij"), -1).view(AREA, 2)
