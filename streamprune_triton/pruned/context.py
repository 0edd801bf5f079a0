"""The context manager: hooks on a model's modules, and nothing else."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .. import models, validate
from ..config import PruneConfig
from .grids import remember
from .hooks import Hooks, Report

DEFAULT = PruneConfig()
_active: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()


@contextmanager
def pruned(model: Any, config: PruneConfig = DEFAULT) -> Iterator[Report]:
    """Inside, a model's generate() and forward() drop the redundant tokens of the videos in their inputs.

    Each video is a stream of its own, pruned as by `prune` where its features enter the language model: behind the
    vision tower, before the first layer. What stays keeps the positions of the unpruned prompt. Text and images are
    untouched, and so is a call without video. Outputs have the shapes they have outside: a dropped token's hidden
    state and logits are those of the token before it that stayed. (Attention maps and key-value caches are of the
    tokens that stayed.) No carriers are made.

    A cache that comes out can be handed to generate() or forward() again with more text, inside of `pruned` only.
    Gradients flow through the tokens that stay; the selection is not differentiated. All threads see the model
    pruned. A compiled model would not be: torch.compile leaves out hooks that come later.

    Args:
        model: of a family that `models.adapter` knows, with its head (...ForConditionalGeneration).
        config: what to drop.

    Yields:
        A `Report`.

    Raises:
        ValueError, TypeError: for an unsupported or compiled model, one that is pruned already, or a bad config;
            inside, from the model, for what cannot be pruned: static caches, masks other than (B, L), packed prompts,
            video features without input_ids, assisted decoding, another image or video behind a cached pruned prompt.
    """
    validate.check_config(config, [])
    family = models.adapter(model)
    _check_model(model)
    adapter = family.without_processor(model)
    multimodal, decoder = model.model, adapter.language_model
    towers = [each for each in multimodal.children() if each is not decoder]
    hooks = Hooks(adapter, config, Report())
    handles = [
        model.register_forward_pre_hook(hooks.before_head, with_kwargs=True),
        model.register_forward_hook(hooks.after_head),
        multimodal.register_forward_pre_hook(hooks.before_model, with_kwargs=True),
        multimodal.register_forward_hook(hooks.after_model, always_call=True),
        decoder.register_forward_pre_hook(hooks.before_decoder, with_kwargs=True),
        decoder.register_forward_hook(hooks.after_decoder),
        *(tower.register_forward_hook(remember, with_kwargs=True) for tower in towers),
    ]
    _active.add(multimodal)
    deltas = {name: value for name, value in vars(multimodal).items() if name == "rope_deltas"}
    try:
        yield hooks.report
    finally:
        _active.discard(multimodal)
        for handle in handles:
            handle.remove()
        vars(multimodal).update(deltas)  # of the last prompt's positions, which generate() leaves behind


def _check_model(model: Any) -> None:
    if not isinstance(getattr(model, "model", None), torch.nn.Module):
        raise ValueError(f"model must have a head (...ForConditionalGeneration), got {type(model).__name__}")
    if hasattr(model, "_orig_mod") or any(each._compiled_call_impl is not None for each in model.modules()):
        raise ValueError("model must not be compiled")
    if model.model in _active:
        raise ValueError("model must not be pruned already: leave the other context first")
