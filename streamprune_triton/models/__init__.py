"""The model families that a session runs on: an adapter each, found by `model.config.model_type`, imported lazily."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import tiny

if TYPE_CHECKING:
    import torch

    from .base import Adapter

__all__ = ["adapter", "load", "tiny", "with_head"]

# model_type: (module here, its class)
_FAMILIES = {
    "qwen2_vl": ("qwen2_5_vl", "Qwen25VL"),
    "qwen2_5_vl": ("qwen2_5_vl", "Qwen25VL"),
    "qwen3_vl": ("qwen3_vl", "Qwen3VL"),
    "qwen3_vl_moe": ("qwen3_vl", "Qwen3VL"),
    "llava_onevision": ("llava_onevision", "LlavaOnevision"),
    "llava_next_video": ("llava_next_video", "LlavaNextVideo"),
    "internvl": ("internvl", "InternVL"),
    "video_llama_3": ("video_llama_3", "VideoLlama3"),
    "qwen3_5": ("qwen3_5", "Qwen35"),
    "qwen3_5_moe": ("qwen3_5", "Qwen35"),
    "glm4v": ("glm4v", "Glm4V"),
    "glm4v_moe": ("glm4v", "Glm4V"),
    "glm46v": ("glm4v", "Glm4V"),
    "smolvlm": ("smolvlm", "SmolVLM"),
}


def adapter(model: Any) -> type[Adapter]:
    """The adapter class of the model's family. Raises ValueError, listing the known ones, where there is none."""
    return _family(getattr(getattr(model, "config", None), "model_type", None))


def with_head(model: Any) -> Any:
    """The model itself, or the one that peft has wrapped, with its LoRA layers as they are.

    Raises ValueError for an unknown family, and for a model without its head.
    """
    if hasattr(model, "get_base_model"):  # of peft, which calls the model that it wraps
        model = model.get_base_model()
    adapter(model)
    if not hasattr(getattr(model, "model", None), "forward"):
        raise ValueError(f"model must have a head (...ForConditionalGeneration), got {type(model).__name__}")
    return model


def load(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
) -> tuple[Any, Any]:
    """A checkpoint's model, in evaluation mode, and its processor.

    Args:
        name_or_path: a folder, or a name on the Hugging Face hub.
        device: where the model goes; None leaves it where it was loaded.
        dtype: of the weights; None is the checkpoint's own.

    Returns:
        (model, processor). Without torchvision, which transformers' video processors need, the processor is a
        `processor.FrameProcessor`.

    Raises:
        OSError: one line, where the checkpoint or a part of it is not found or cannot be read.
        ValueError: for a model of an unknown family.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    name = os.fspath(name_or_path)
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise OSError(f"model {name!r} is not a folder: give the path of a checkpoint or a name on the hub")
    with _one_line(name):
        config = AutoConfig.from_pretrained(name)
    _family(config.model_type)
    with _one_line(name):
        processor = _processor(name, config.model_type)
        model: Any = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype or "auto")
    return (model if device is None else model.to(device)).eval(), processor


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Says in one line of an OSError why a part of the checkpoint is missing or cannot be read."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise OSError(f"model {name!r} cannot be loaded: {str(error).strip().splitlines()[0]}") from error


def _family(model_type: object) -> type[Adapter]:
    if not isinstance(model_type, str) or model_type not in _FAMILIES:
        raise ValueError(
            f"model must be of a supported family ({', '.join(_FAMILIES)}), got {model_type!r}; "
            "another one needs a models.base.Adapter with pixels, features, layout and grids"
        )
    module, name = _FAMILIES[model_type]
    return getattr(import_module(f".{module}", __name__), name)


def _processor(name: str, model_type: str) -> Any:
    from transformers import AutoProcessor
    from transformers.utils import is_torchvision_available

    from .processor import FrameProcessor

    if is_torchvision_available():
        return AutoProcessor.from_pretrained(name)
    return FrameProcessor.from_pretrained(name, _family(model_type).frame_images, model_type)
