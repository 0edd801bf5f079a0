"""A processor without torchvision, which transformers' own video processors need."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..transfer import upload

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .base import Adapter

# Qwen2VLVideoProcessor's own limits, for a checkpoint that names none: pixels of a resized frame.
VIDEO_PIXELS = {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28}
CURE = (
    "is of transformers' own processors, which need torchvision: pip install torchvision, from the index that torch "
    "came from, and load the model again; a StreamingSession runs without"
)
OTHER = (
    "is of transformers' own processors, and this is a FrameProcessor, for sessions alone: AutoProcessor loads a "
    "checkpoint's own (SmolVLM's needs num2words)"
)
TOGETHER = "load both from one checkpoint, as models.load does"
ONE_VIDEO: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "?"}]}]
PATCHES = ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std", "resample", "rescale_factor")
PICTURES = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std", "do_convert_rgb"),
)


@dataclass(frozen=True)
class FrameProcessor:
    """What a session asks of a processor: a tokenizer, a chat template, and frames as a vision tower takes them.

    Attributes:
        tokenizer: the model's.
        image_processor: of transformers, on PIL and NumPy, with the settings of the model's video processor.
        chat_template: Jinja, as in the checkpoint.
        model_type: of the models that it is for; None does not say.
    """

    tokenizer: PreTrainedTokenizerBase
    image_processor: Any
    chat_template: str
    model_type: str | None = None
    _grids: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str, images: Callable[[dict[str, Any]], Any], model_type: str | None = None
    ) -> FrameProcessor:
        """The processor of a checkpoint.

        Args:
            name_or_path: a folder or a hub name.
            images: from the video processor's settings to the image processor, see `Adapter.frame_images`.
            model_type: of the checkpoint.

        Raises:
            OSError: where a part of it is missing.
        """
        from transformers import AutoTokenizer
        from transformers.video_processing_utils import BaseVideoProcessor

        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        settings, _ = BaseVideoProcessor.get_video_processor_dict(name_or_path)
        return cls(tokenizer, images(settings), _chat_template(name_or_path, tokenizer), model_type)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raises ImportError: what `generate` takes is made by transformers' processors alone."""
        raise ImportError(f"processor(...) {_cure()}")

    def apply_chat_template(self, messages: list[dict[str, Any]], *, tokenize: bool = False, **kwargs: Any) -> str:
        """As the tokenizer's method, by the processor's template. Raises ImportError for tokenize=True."""
        if tokenize:
            raise ImportError(f"processor.apply_chat_template(tokenize=True) {_cure()}")
        told = self.tokenizer.apply_chat_template(messages, chat_template=self.chat_template, tokenize=False, **kwargs)
        return str(told)

    def pictures(self, frames: np.ndarray) -> torch.Tensor:
        """(N, 3, h, w) float32 of frames (N, height, width, 3) uint8: resized and normalised one by one."""
        return self._images(frames)["pixel_values"]

    def patches(self, frames: np.ndarray, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """Patches of frames (N, height, width, 3) uint8, N a multiple of temporal_patch_size, as one video.

        Frames that need no resizing are normalised and cut on `device`; it takes a quarter of their float bytes there.

        Returns:
            (patches (T*h*w, C*slots*p*p) float32, grid (1, 3) int64 of T, h, w), as the video processor's. The
            patches are on `device`, or on the CPU where frames had to be resized.
        """
        images = self.image_processor
        size = frames.shape[1:3]
        if size not in self._grids:
            self._grids[size] = tuple(self._images(frames[:1])["image_grid_thw"][0, 1:].tolist())
        h, w = self._grids[size]
        if size != (h * images.patch_size, w * images.patch_size):
            return self._resized(frames)
        grid = torch.tensor([[len(frames) // images.temporal_patch_size, h, w]])
        return cut(upload(torch.from_numpy(np.require(frames, requirements="W")), device), images), grid

    def _resized(self, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """As `patches`. The image processor repeats an image over the slots of a temporal patch; slot k of a pair (or
        more) of frames is therefore taken from the patches of its k-th frame."""
        slots = self.image_processor.temporal_patch_size
        images = self._images(frames)
        _, h, w = images["image_grid_thw"][0].tolist()
        t, size = len(frames) // slots, self.image_processor.patch_size**2
        each = images["pixel_values"].view(t, slots, h * w, -1, slots, size)  # frame, patch, channel, slot, pixel
        own = each.diagonal(dim1=1, dim2=4)  # (t, h*w, C, size, slots)
        return own.movedim(-1, 3).reshape(t * h * w, -1), torch.tensor([[t, h, w]])

    def _images(self, frames: np.ndarray) -> Any:
        return self.image_processor(images=list(frames), return_tensors="pt", input_data_format="channels_last")


def _cure() -> str:
    from transformers.utils import is_torchvision_available

    return OTHER if is_torchvision_available() else CURE


def check_fits(adapter: Adapter) -> None:
    """Raises ValueError for another family's processor, or one that spells a video as the model does not read it.

    A class that is not transformers' own says nothing of its family: there only what it spells counts.
    """
    from . import _FAMILIES as families

    got, own = type(adapter.processor).__name__, adapter.model.config.model_type
    made_for = None if adapter.sums_up else _made_for(adapter.processor)  # Qwen3.5, for `pruned` alone, has Qwen3-VL's
    if made_for in families and families[made_for] != families[own]:
        raise ValueError(f"processor must be the model's, of {own}, got {got} of {made_for}: {TOGETHER}")
    told = adapter.processor.apply_chat_template(ONE_VIDEO, tokenize=False, add_generation_prompt=True)
    ids = adapter.processor.tokenizer(told)["input_ids"]
    rows = getattr(adapter.model.get_input_embeddings(), "num_embeddings", max(ids) + 1)
    if ids.count(_video_token(adapter)) != 1 or max(ids) >= rows:
        raise ValueError(
            f"processor must be the model's, got {got}, whose chat template writes a video as no token of "
            f"{type(adapter.model).__name__}: {TOGETHER}"
        )


def _made_for(processor: Any) -> str | None:
    """The model_type that it is of: transformers' own classes stand in a module named so."""
    if isinstance(processor, FrameProcessor):
        return processor.model_type
    place = type(processor).__module__.split(".")
    return place[2] if place[:2] == ["transformers", "models"] else None


def _video_token(adapter: Adapter) -> int | None:
    """None where the processor has none that the family would ask it for."""
    with suppress(AttributeError):
        return adapter.video_token_id
    with suppress(AttributeError):
        adapter.text(ONE_VIDEO)  # a family without sessions says so here
    return None


def cut(frames: torch.Tensor, images: Any) -> torch.Tensor:
    """(T*h*w, C*slots*p*p) float32 patches of frames (N, h*p, w*p, 3) uint8, as Qwen2-VL's image processor has them.

    Patches that are merged follow each other: row, column, then merge_size x merge_size of them.
    """
    n, height, width, _ = frames.shape
    p, m, slots = images.patch_size, images.merge_size, images.temporal_patch_size
    mean, std = upload(torch.tensor([images.image_mean, images.image_std]), frames.device)
    x = (frames.float() * images.rescale_factor - mean) / std
    x = x.view(n // slots, slots, height // p // m, m, p, width // p // m, m, p, 3)
    return x.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, 3 * slots * p * p)


def normalized(pixels: torch.Tensor, videos: Any) -> torch.Tensor:
    """Bytes of patches (R, C*slots*p*p) or of pictures (..., C, h, w) in float32, as a video processor normalises."""
    each = [torch.tensor(value, dtype=torch.float32).expand(3) for value in (videos.image_mean, videos.image_std)]
    mean, std = upload(torch.stack(each) * (1.0 / videos.rescale_factor), pixels.device)
    if pixels.ndim == 2:
        return ((pixels.unflatten(1, (3, -1)).float() - mean[:, None]) / std[:, None]).flatten(1)
    return (pixels.float() - mean[:, None, None]) / std[:, None, None]


def patch_images(settings: dict[str, Any]) -> Any:
    """Qwen2-VL's image processor with a video processor's settings, which mean pixels of a frame."""
    size = dict(settings.get("size") or VIDEO_PIXELS)
    size["shortest_edge"] = settings.get("min_pixels") or size.get("shortest_edge") or VIDEO_PIXELS["shortest_edge"]
    size["longest_edge"] = settings.get("max_pixels") or size.get("longest_edge") or VIDEO_PIXELS["longest_edge"]
    size = {name: size[name] for name in ("shortest_edge", "longest_edge")}
    return _on_pil("Qwen2VLImageProcessor")(size=size, **_given(settings, PATCHES))


def picture_images(settings: dict[str, Any]) -> Any:
    """CLIP's image processor (resize, crop, rescale, normalise) with a video processor's settings."""
    return _on_pil("CLIPImageProcessor")(**_given(settings, PICTURES))


def _given(settings: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: settings[name] for name in names if settings.get(name) is not None}


def _on_pil(name: str) -> Any:
    """The image processor class that runs on PIL and NumPy, under the name it has in this transformers."""
    import transformers

    return getattr(transformers, f"{name}Pil" if hasattr(transformers, f"{name}Pil") else name)


def _chat_template(name_or_path: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The processor's template, or the tokenizer's where the checkpoint has one for both."""
    from transformers.utils import cached_file

    for name in ("chat_template.jinja", "chat_template.json"):
        found = cached_file(name_or_path, name, _raise_exceptions_for_missing_entries=False)
        if found is not None:
            text = Path(found).read_text(encoding="utf-8")
            return text if name.endswith("jinja") else json.loads(text)["chat_template"]
    if not isinstance(tokenizer.chat_template, str):
        raise OSError(f"{name_or_path} has no chat template: add a chat_template.jinja to it")
    return tokenizer.chat_template
