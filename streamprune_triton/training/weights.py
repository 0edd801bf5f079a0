"""Weights: LoRA on them, how they are held, how they are saved."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

from .. import models

# Files of a checkpoint's processor; the tokenizer writes its own.
PROCESSOR = (
    *("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
    *("chat_template.jinja", "chat_template.json"),
)


def add_lora(model: Any, rank: int = 64, alpha: int = 16, dropout: float = 0.0) -> Any:
    """A peft model with LoRA (arXiv 2106.09685) on every linear layer but the head: tower, projector, language model.

    Args:
        model: of a supported family; it gets the layers in place. Experts that are no linear layers get none.
        rank, alpha, dropout: of LoRA; the defaults are VideoScan's (arXiv 2503.09387).

    Raises:
        ValueError: for a model of an unknown family, or a value that peft refuses.
        ImportError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError(
            "training with LoRA needs peft, which is not installed: pip install peft accelerate"
        ) from error
    models.adapter(model)
    head = model.get_output_embeddings()
    # Not its subclasses: their weights are read without their forward being called.
    names = [name for name, module in model.named_modules() if type(module) is torch.nn.Linear and module is not head]
    lora = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=names)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft asks by the old name
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)  # of experts
        return get_peft_model(model, lora)


def hold_in_bf16(model: Any) -> None:
    """Frozen weights in bfloat16, weights that learn in float32: for a forward under autocast."""
    for weight in model.parameters():
        weight.data = weight.data.to(torch.float32 if weight.requires_grad else torch.bfloat16)


def checkpoint_activations(model: Any) -> None:
    """Has layers compute their activations again in the backward pass (gradient checkpointing): less memory."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    name = "activation_checkpointing_enable"  # of transformers 5.23 on
    getattr(base, name if hasattr(base, name) else "gradient_checkpointing_enable")({"use_reentrant": False})


def merged(model: Any) -> Any:
    """A peft model's own model, with LoRA added into its weights in place; another model as it is."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def save(model: Any, processor: Any, folder: str | os.PathLike[str], source: str) -> None:
    """Writes a checkpoint that `models.load` reads.

    Args:
        model: without peft.
        processor: the model's.
        folder: to write to.
        source: the checkpoint that the model came from, whose processor's files are copied where it cannot be saved.
    """
    model.save_pretrained(folder)
    if hasattr(processor, "save_pretrained"):
        processor.save_pretrained(folder)
    else:
        processor.tokenizer.save_pretrained(folder)
        _copy_processor(source, Path(folder))


def _copy_processor(source: str, folder: Path) -> None:
    from transformers.utils import cached_file

    for name in PROCESSOR:
        found = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        if found is not None:
            shutil.copyfile(found, folder / name)
