"""What happens around the multimodal model and its decoder while a model is pruned."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import torch

from ..config import PruneConfig
from ..models.base import Adapter
from ..pruner import prune
from .calls import named
from .columns import Columns
from .grids import remembered, with_grids
from .options import refused
from .past import Past, cache_position, check_mask, next_position, opened, shut

_VISUAL = ("pixel_values", "pixel_values_videos", "mm_encoder_outputs")  # what features come from


@dataclass
class Report:
    """What the latest prompt with videos came to.

    Attributes:
        keep: (T, H, W) bool for each video, in the order of the prompts.
    """

    keep: list[torch.Tensor] = field(default_factory=list)

    @property
    def drop_ratio(self) -> float:
        """Share of the videos' tokens that was dropped, 0.0 without videos."""
        total = sum(keep.numel() for keep in self.keep)
        return 1 - sum(int(keep.sum()) for keep in self.keep) / total if total else 0.0


class Hooks(threading.local):
    """The hooks, and what a thread's call of the model is about between them; each thread's begins anew.

    Attributes:
        head: the arguments of the model with its head, until that answers.
        prompt: the model's arguments, until the decoder has them, where there are videos.
        columns: what became of them, until the model answers.
        past: what the cache is to know, until the decoder answers.
        cache: of the call; open until the model answers, where it is of a pruned prompt.
    """

    def __init__(self, adapter: Adapter, config: PruneConfig, report: Report) -> None:
        self.adapter = adapter
        self.config = config
        self.report = report
        self.head: dict[str, Any] | None = None
        self.prompt: dict[str, Any] | None = None
        self.columns: Columns | None = None
        self.past: Past | None = None
        self.cache: Any = None

    def before_generate(self, model: Any, given: dict[str, Any]) -> None:
        """Raises ValueError where an option cannot go with what is, or has been, pruned."""
        line = refused(model, given)
        if line is None:
            return
        inputs = {"input_ids": given.get("inputs"), **given}
        video = self._has_video(inputs) and any(self.adapter.grids(inputs["input_ids"], inputs))
        if video or Past.of(inputs.get("past_key_values")) is not None:
            raise ValueError(line)

    def before_head(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.head = named(module.forward, args, kwargs)

    def before_model(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        inputs, self.prompt, self.columns = named(module.forward, args, kwargs), None, None
        outer = inputs if self.head is None else self.head
        self.cache = inputs.get("past_key_values")
        past = opened(self.cache)
        if past is not None:
            if _visual(inputs):
                raise ValueError("past_key_values holds a pruned prompt: only text can follow it")
            logits = outer.get("logits_to_keep")
            return (), past.continued(inputs, guesses=isinstance(logits, int) and logits > 1)
        if self._has_video(inputs):
            grids = remembered(outer)  # of the objects as generate() made them: accelerate rebuilds them on the way in
            self.prompt = with_grids(inputs, grids, inputs["input_ids"] == self.adapter.visual_token_id)
        return None

    def after_model(self, module: torch.nn.Module, args: Any, output: Any) -> Any:
        """Also where the model fails, with None."""
        shut(self.cache)
        self.prompt = self.past = self.cache = None
        return self._restored(output) if self.head is None else None

    def before_decoder(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        prompt, self.prompt, self.past = self.prompt, None, None
        return None if prompt is None else ((), self._cut(prompt, named(module.forward, args, kwargs)))

    def after_decoder(self, module: torch.nn.Module, args: Any, output: Any) -> Any:
        if self.past is None or self.columns is None:
            return None
        for value in output.values() if isinstance(output, dict) else output:
            if hasattr(value, "get_seq_length"):
                self.past.remember(value)
        self.past, last = None, self.columns.restore(output[0])
        if isinstance(output, tuple):
            return (last, *output[1:])
        output.last_hidden_state = last
        return output

    def after_head(self, module: torch.nn.Module, args: Any, output: Any) -> Any:
        """Also where the model fails, with None."""
        self.head = None
        return self._restored(output)

    def _restored(self, output: Any) -> Any:
        """Hidden states of all layers, once all is done: some releases collect them only around the whole."""
        columns, self.columns = self.columns, None
        if columns is None or output is None:
            return None
        if isinstance(output, tuple):
            return tuple(map(columns.restore_layers, output))
        if getattr(output, "hidden_states", None) is not None:
            output.hidden_states = columns.restore_layers(output.hidden_states)
        return output

    def _has_video(self, inputs: dict[str, Any]) -> bool:
        """Whether there may be one. Raises ValueError for features of videos that nobody can find."""
        if not _visual(inputs):
            return False
        ids, encoded = inputs.get("input_ids"), inputs.get("mm_encoder_outputs") or {}
        if ids is not None:
            return bool((ids == self.adapter.visual_token_id).any())
        if inputs.get("pixel_values_videos") is not None or encoded.get("video") is not None:
            raise ValueError("input_ids must be given where videos are pruned, got inputs_embeds alone")
        return False

    def _cut(self, prompt: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """The decoder's arguments without the columns that are dropped; they are remembered for `after_decoder`."""
        ids = prompt["input_ids"]
        videos = self.adapter.grids(ids, prompt)
        if not any(videos):
            return given
        begin = _length(given.get("past_key_values"))
        mask, positions = _mask(given, begin), _positions(given, begin)
        own = mask[:, begin:] != 0
        columns = Columns.of(own & ~self._dropped(given["inputs_embeds"], videos))
        if begin and self.adapter.sums_up and not bool(columns.valid.all()):
            raise ValueError("past_key_values must be empty for prompts of different lengths with linear attention")
        mask = torch.cat([mask[:, :begin], columns.valid.to(mask)], 1)
        self.columns, self.past = columns, Past(mask, next_position(positions, own), begin + own.shape[1])
        return {
            **given,
            "inputs_embeds": columns.cut_rows(given["inputs_embeds"]),
            "attention_mask": mask,
            "position_ids": columns.cut(positions),
            **cache_position(given, begin, columns.index.shape[1]),
            **columns.cut_deepstack(given),
        }

    def _dropped(self, embeds: torch.Tensor, videos: list[list[torch.Tensor]]) -> torch.Tensor:
        """(B, L) bool."""
        grids = [(row, grid.to(embeds.device)) for row, found in enumerate(videos) for grid in found]
        results = prune([embeds[row, grid].detach() for row, grid in grids], self.config)
        self.report.keep = [result.keep for result in results]
        dropped = torch.zeros(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        for (row, grid), result in zip(grids, results, strict=True):
            dropped[row, grid] = ~result.keep
        return dropped


def _visual(inputs: dict[str, Any]) -> bool:
    return any(_given(inputs.get(name)) for name in _VISUAL)


def _given(value: Any) -> bool:
    """Whether features can come from it: generate() may hand over an empty dict."""
    return any(each is not None for each in value.values()) if isinstance(value, dict) else value is not None


def _length(cache: Any) -> int:
    """Raises ValueError for a cache of a fixed size."""
    if getattr(cache, "is_compileable", False):
        raise ValueError("past_key_values must be a cache that grows (cache_implementation=None), got a static one")
    return 0 if cache is None else cache.get_seq_length()


def _mask(given: dict[str, Any], begin: int) -> torch.Tensor:
    """(B, begin + L) int64."""
    embeds, mask = given["inputs_embeds"], given.get("attention_mask")
    mask = embeds.new_ones(len(embeds), begin + embeds.shape[1]) if mask is None else check_mask(mask)
    return mask.to(embeds.device, torch.int64)


def _positions(given: dict[str, Any], begin: int) -> torch.Tensor:
    """(B, L) or (A, B, L), those that the decoder would use. Raises ValueError for packed prompts."""
    embeds, positions = given["inputs_embeds"], given.get("position_ids")
    batch, length = embeds.shape[:2]
    if positions is None:
        positions = torch.arange(begin, begin + length, device=embeds.device)[None]
    text = positions[0] if positions.ndim == 3 and len(positions) == 4 else positions
    packed = given.get("attention_mask") is None and begin == 0 and text.ndim == 2 and bool((text.diff() != 1).any())
    if packed or given.get("cu_seq_lens_q") is not None:
        raise ValueError("position_ids must be of one prompt a row: prompts packed into a row cannot be pruned")
    return positions.expand(*positions.shape[:-2], batch, length).to(embeds.device)
