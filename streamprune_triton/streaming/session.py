"""A video language model that watches a stream: frames go in as they come, questions are answered in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import models
from ..attribution import BY_SPACE, BY_TIME, KEPT, attribute
from ..config import PruneConfig
from ..pruner import StreamPruner
from ..result import PruneResult
from .generation import Decoding
from .kv import Visual
from .memory import Memory
from .stats import Stats, timed

if TYPE_CHECKING:
    from ..models.positions import VideoPositions


@dataclass(frozen=True)
class _Past:
    """All that frames change. An append makes a new one, so that one that fails has changed nothing."""

    kv: Visual
    pruner: StreamPruner
    positions: VideoPositions | None = None  # known with the first step's grid
    steps: int = 0
    waiting: np.ndarray | None = None  # (n, height, width, 3) raw frames of a step that is not complete, n maybe 0


class StreamingSession:
    """A stream of frames, pruned as it arrives, in the KV cache of a video language model.

    A question costs the question: its tokens and the answer's run on top of the cache, which afterwards is what it
    was. Positions are those of the unpruned model, gathered at the kept tokens; with nothing dropped, answers are
    those of the unmodified model's `generate` on the same frames. In memory mode "tokens" the kept tokens alone enter
    the sequence: carriers, for which `config.carrier` asks, are in the results of `append` and nowhere else.

    Args:
        model: a Qwen2.5-VL; it is not modified, and several sessions may share it.
        processor: the model's, as `models.load` gives it.
        config: what to drop.
        memory: what stays of the frames.
        fps: rate at which the raw frames were taken, frames a second; the model's time positions follow from it.
        system: the system text; None leaves it to the chat template.

    Attributes:
        stats: a `stats.Stats`.

    Raises:
        ValueError, TypeError: naming the argument.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        config: PruneConfig | None = None,
        memory: Memory | None = None,
        *,
        fps: float = 1.0,
        system: str | None = None,
    ) -> None:
        if isinstance(fps, bool) or not isinstance(fps, (int, float)):
            raise TypeError(f"fps must be a number, got {type(fps).__name__}")
        if not 0 < fps < float("inf"):
            raise ValueError(f"fps must be above 0 and finite, got {fps}")
        if memory is not None and not isinstance(memory, Memory):
            raise TypeError(f"memory must be a Memory, got {type(memory).__name__}")
        if system is not None and not isinstance(system, str):
            raise TypeError(f"system must be a str or None, got {type(system).__name__}")
        self.config = PruneConfig() if config is None else config
        self.memory = Memory() if memory is None else memory
        self.fps = float(fps)
        pruner = StreamPruner(self.config)
        self._family = models.adapter(model)(model, processor)
        self._model = model
        self._tokenizer = processor.tokenizer
        self._system = system
        self._before = self._family.prompt(system, "").before
        kv = Visual.empty()
        self._family.forward(self._family.embed(self._before), _text(0, len(self._before)), kv.cache)
        self._past = _Past(replace(kv, text=len(self._before)), pruner)
        self.stats = Stats(kv_tokens=kv.tokens, kv_bytes=kv.bytes)

    def append(self, frames: np.ndarray | torch.Tensor | Sequence[Any]) -> PruneResult | None:
        """Takes the next raw frames of the stream into the KV cache.

        Args:
            frames: (N, height, width, 3) uint8 RGB, an array or a tensor, or a list of (height, width, 3); all of a
                stream's frames have one size.

        Returns:
            The result of the temporal steps that these frames complete, or None where they complete none. A step of
            Qwen2.5-VL is two raw frames: an odd one waits for the next.

        Raises:
            ValueError, TypeError: naming the argument. A failed call leaves the session as it was.
        """
        new = _checked(frames, self._past.waiting)
        seconds: dict[str, float] = {}
        past, result = self._advance(self._past, new, seconds)
        counts = None if result is None else _counts(result, self.config)
        self._past = past
        self._count(len(new), counts, seconds)
        return result

    def ask(self, question: str, **generate_kwargs: Any) -> str:
        """The model's answer to a question about the stream so far.

        A raw frame that still waits for the rest of its step is seen, repeated to fill the step as the processor pads
        a clip; it goes on waiting afterwards.

        Args:
            question: plain text.
            generate_kwargs: as of `generate`: those in `generation.ARGUMENTS`. What is not given comes from the
                model's generation_config.

        Raises:
            ValueError, TypeError: naming the argument; ValueError before the first frame.
        """
        return "".join(self.stream(question, **generate_kwargs))

    def stream(self, question: str, **generate_kwargs: Any) -> Iterator[str]:
        """As `ask`, in pieces as they come. Frames may be appended meanwhile: the answer is about those before."""
        if not isinstance(question, str):
            raise TypeError(f"question must be a str, got {type(question).__name__}")
        decoding = Decoding.of(self._model.generation_config, **generate_kwargs)
        prompt = self._family.prompt(self._system, question)
        if not torch.equal(prompt.before, self._before):
            raise ValueError("question must not change the text before the video: the chat template makes it do so")
        past = self._past
        if past.waiting is None:
            raise ValueError("question needs something to look at: append frames first")
        return self._text_of(past, prompt.after, decoding)

    def _text_of(self, past: _Past, after: torch.Tensor, decoding: Decoding) -> Iterator[str]:
        ids: list[int] = []
        sent = ""
        for token in self._tokens_of(past, after, decoding):
            ids.append(token)
            text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            if text.startswith(sent) and len(text) > len(sent) and not text.endswith("\ufffd"):
                yield text[len(sent) :]
                sent = text
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if len(text) > len(sent):  # ends inside of a character
            yield text[len(sent) :]

    def _tokens_of(self, past: _Past, after: torch.Tensor, decoding: Decoding) -> Iterator[int]:
        """The answer's token ids; one that ends it is not among them."""
        seconds = self.stats.seconds
        with timed(seconds, "answer"):
            past = self._flushed(past)
            assert past.positions is not None
            kv, at = past.kv.fork(), past.positions.behind(past.steps)
            logits = self._read(after, at, kv)
            at += len(after)
            video = torch.tensor([self._model.config.video_token_id])
            seen = torch.cat([self._before, video, after]).to(logits.device)
        for n in range(decoding.max_new_tokens):
            with timed(seconds, "answer"):
                if n:
                    logits = self._read(seen[-1:], at, kv)
                    at += 1
                token = decoding.choose(logits, seen)
                seen = torch.cat([seen, seen.new_tensor([token])])
            if token in decoding.eos:
                return
            yield token

    def _read(self, ids: torch.Tensor, at: int, kv: Visual) -> torch.Tensor:
        """(V,) logits behind text whose first token is at position `at`."""
        hidden = self._family.forward(self._family.embed(ids), _text(at, len(ids)), kv.cache)
        return self._family.logits(hidden[-1:])[0]

    def _flushed(self, past: _Past) -> _Past:
        """The past with the waiting frames in it, the last of them repeated to fill their step."""
        assert past.waiting is not None
        if not len(past.waiting):
            return past
        missing = self._family.frames_per_step - len(past.waiting)
        return self._advance(past, past.waiting[-1:].repeat(missing, axis=0), {})[0]

    def _advance(self, past: _Past, new: np.ndarray, seconds: dict[str, float]) -> tuple[_Past, PruneResult | None]:
        """The past with new frames in it, and the result of the steps that they complete."""
        frames = new if past.waiting is None else np.concatenate([past.waiting, new])
        count = len(frames) // self._family.frames_per_step
        ready, waiting = np.split(frames, [count * self._family.frames_per_step])
        past = replace(past, waiting=waiting.copy() if len(frames) else past.waiting)
        if not count:
            return past, None
        with timed(seconds, "preprocess"):
            patches, grid = self._family.patches(ready)
        with timed(seconds, "vision"):
            x = self._family.features(patches, grid)
        _check_bound(self.memory, self.config, x.shape[1] * x.shape[2])
        with timed(seconds, "prune"):
            pruner = past.pruner.clone()
            result = pruner(x)
            tokens, counts = result.tokens, result.counts.tolist()  # the one wait for the device
        with timed(seconds, "prefill"):
            grid_hw = (x.shape[1], x.shape[2])
            video = past.positions or self._family.positions(self._before, grid_hw, self.fps)
            positions = video.steps(past.steps, count)[:, result.indices.cpu()]
            kv = past.kv.fork()
            for rows in kv.room(counts, self.memory.max_tokens):
                self._family.forward(tokens[rows], positions[:, rows], kv.cache)
        return replace(past, kv=kv, pruner=pruner, positions=video, steps=past.steps + count), result

    def _count(self, frames: int, counts: dict[str, int] | None, seconds: dict[str, float]) -> None:
        stats = self.stats
        stats.frames_in += frames
        for name, more in (counts or {}).items():
            setattr(stats, name, getattr(stats, name) + more)
        for stage, more_seconds in seconds.items():
            stats.seconds[stage] += more_seconds
        stats.kv_tokens, stats.kv_bytes = self._past.kv.tokens, self._past.kv.bytes


def _text(first: int, count: int) -> torch.Tensor:
    """(3, count) positions of text: the same in all three."""
    return torch.arange(first, first + count).expand(3, -1)


def _counts(result: PruneResult, config: PruneConfig) -> dict[str, int]:
    fate = np.bincount(attribute(result, config).ravel(), minlength=4)
    return {
        "steps": len(result.keep),
        "tokens_in": result.keep.numel(),
        "tokens_kept": int(fate[KEPT]),
        "dropped_temporal": int(fate[BY_TIME]),
        "dropped_spatial": int(fate[BY_SPACE]),
        "nonfinite": int(result.nonfinite),
    }


def _check_bound(memory: Memory, config: PruneConfig, area: int) -> None:
    """Raises ValueError where one step alone may exceed the memory's bound."""
    budget = config.max_tokens if config.keep_tokens is None else config.keep_tokens
    most = area if budget is None or config.keyframe_interval or config.scope == "clip" else min(budget, area)
    if memory.max_tokens is not None and memory.max_tokens < most:
        raise ValueError(f"memory.max_tokens must be at least {most}, the tokens of one step, got {memory.max_tokens}")


def _checked(frames: object, waiting: np.ndarray | None) -> np.ndarray:
    """(N, height, width, 3) uint8. Raises TypeError or ValueError, naming frames."""
    if isinstance(frames, (list, tuple)):
        each = [_array(frame, f"frames[{n}]", 3) for n, frame in enumerate(frames)]
        for n, frame in enumerate(each):
            if frame.shape != each[0].shape:
                raise ValueError(f"frames must have one size, got {each[0].shape} and {frame.shape} in frames[{n}]")
        if not each:
            return np.empty((0, *(waiting.shape[1:] if waiting is not None else (1, 1, 3))), np.uint8)
        array = np.stack(each)
    else:
        array = _array(frames, "frames", 4)
    if waiting is not None and array.shape[1:] != waiting.shape[1:]:
        had, got = waiting.shape[1:3], array.shape[1:3]
        raise ValueError(f"frames must keep the stream's size: {had[0]} x {had[1]} so far, got {got[0]} x {got[1]}")
    return np.ascontiguousarray(array)


def _array(frame: object, name: str, rank: int) -> np.ndarray:
    shape = "(N, height, width, 3)" if rank == 4 else "(height, width, 3)"
    if not isinstance(frame, (np.ndarray, torch.Tensor)):
        raise TypeError(f"{name} must be an array or a tensor {shape} uint8, got {type(frame).__name__}")
    if frame.dtype not in (np.uint8, torch.uint8):
        raise TypeError(f"{name} must be uint8, got {frame.dtype}")
    array = frame.cpu().numpy() if isinstance(frame, torch.Tensor) else frame
    if array.ndim != rank or array.shape[-1] != 3 or 0 in array.shape[-3:]:
        hint = ": one frame is frames[None]" if rank == 4 and array.ndim == 3 else ""
        raise ValueError(f"{name} must have shape {shape}, got {tuple(array.shape)}{hint}")
    return array
