"""The context manager: hooks on a model's modules, and a look at what its generate() is told."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from .. import models, validate
from ..config import PruneConfig
from .grids import remember
from .hooks import Hooks, Report
from .options import checked

DEFAULT = PruneConfig()
_active: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
_entering = threading.Lock()


@contextmanager
def pruned(model: Any, config: PruneConfig = DEFAULT, processor: Any = None) -> Iterator[Report]:
    """Inside, a model's generate() and forward() drop the redundant tokens of the videos in their inputs.

    Each video is a stream of its own, pruned as by `prune` where its features enter the language model: behind the
    vision tower, before the first layer. What stays keeps the positions of the unpruned prompt. Text and images are
    untouched, and so is a call without video. Outputs have the shapes they have outside: a dropped token's hidden
    state and logits are those of the token before it that stayed. (Attention maps and key-value caches are of the
    tokens that stayed.) No carriers are made.

    A cache that comes out can be handed to generate() or forward() again with more text, inside of `pruned` only.
    Outside, nothing tells which tokens it lacks: there it can be read, but raises a ValueError where it would grow.
    Gradients flow through the tokens that stay; the selection is not differentiated. All threads see the model pruned,
    as long as the context lasts: join them inside. A compiled model would not be, as torch.compile leaves out hooks
    that come later; compiled layers may be.

    Args:
        model: of a family that `models.adapter` knows, with its head (...ForConditionalGeneration), also
            inside of a PeftModel.
        config: what to drop.
        processor: the model's. InternVL and SmolVLM, whose prompts tell videos from images by their text alone, want
            its tokenizer, and load that of the model's checkpoint where it is not given.

    Yields:
        A `Report`.

    Raises:
        ValueError, TypeError: for an unsupported or compiled model, one that is pruned already, or a bad config;
            inside, from the model, for what cannot be pruned: static caches, masks other than (B, L), packed prompts,
            video features without input_ids, another image or video behind a cached pruned prompt, assisted decoding
            and prefill in chunks (before anything runs, where the model's own generate() is called).
    """
    validate.check_config(config, [])
    model = models.with_head(model)
    family = models.adapter(model)
    adapter = family.without_processor(model) if processor is None else family(model, processor)
    multimodal = model.model
    decoder = adapter.language_model
    towers = [each for each in multimodal.children() if each is not decoder]
    _check_compiled([model, multimodal], [decoder, *towers])
    hooks = Hooks(adapter, config, Report())
    deltas = {name: value for name, value in vars(multimodal).items() if name == "rope_deltas"}
    with ExitStack() as stack:
        undo = stack.callback
        _enter(multimodal, stack)
        undo(vars(multimodal).update, deltas)  # of the last prompt's positions, which generate() leaves behind
        if hasattr(model, "generate"):
            stack.enter_context(checked(model, hooks.before_generate))
        undo(model.register_forward_pre_hook(hooks.before_head, with_kwargs=True).remove)
        undo(model.register_forward_hook(hooks.after_head, always_call=True).remove)
        undo(multimodal.register_forward_pre_hook(hooks.before_model, with_kwargs=True).remove)
        undo(multimodal.register_forward_hook(hooks.after_model, always_call=True).remove)
        undo(decoder.register_forward_pre_hook(hooks.before_decoder, with_kwargs=True).remove)
        undo(decoder.register_forward_hook(hooks.after_decoder).remove)
        for tower in towers:
            undo(tower.register_forward_hook(remember, with_kwargs=True).remove)
        yield hooks.report


def _enter(multimodal: torch.nn.Module, stack: ExitStack) -> None:
    with _entering:
        if multimodal in _active:
            raise ValueError("model must not be pruned already: leave the other context first")
        stack.callback(_active.discard, multimodal)
        _active.add(multimodal)


def _check_compiled(outer: list[Any], inner: list[Any]) -> None:
    """A compiled forward leaves out the hooks of the modules it calls, a compiled module its own, too."""
    forwards = any(hasattr(each.forward, "_torchdynamo_orig_callable") for each in outer)
    if forwards or any(each._compiled_call_impl is not None for each in (*outer, *inner)):
        raise ValueError("model must not be compiled, nor its decoder or towers with compile(): their layers may be")
