"""What an adapter answers about its family of models, and what is the same for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import wraps
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
import torch

from ..transfer import upload
from .attention import planless
from .positions import Layout
from .processor import normalized, picture_images

if TYPE_CHECKING:
    from transformers import Cache


class Features(NamedTuple):
    """Visual tokens of T steps, as the language model would receive them."""

    x: torch.Tensor  # (T, H, W, D)
    levels: tuple[torch.Tensor, ...] = ()  # DeepStack: (T, H, W, D) each, added behind the first layers


class DeepStack(NamedTuple):
    """Rows added to the hidden states of visual tokens behind the first layers (arXiv 2406.04334)."""

    at: torch.Tensor  # (L,) bool, on the host: the visual tokens among the new ones
    levels: tuple[torch.Tensor, ...]  # (K, D) each, K = at.sum()

    def spread(self, size: int) -> tuple[torch.Tensor, ...]:
        """(size, D) of each level, zero where a row has none: to be added to all rows, since where a mask is true a
        device alone knows."""
        at = self.at.nonzero()[:, 0]
        if len(at) == size:
            return self.levels
        return tuple(x.new_zeros(size, x.shape[1]).index_copy(0, upload(at, x.device), x) for x in self.levels)


Method = TypeVar("Method", bound=Callable[..., Any])


def inference(method: Method) -> Method:
    """A method of an adapter that autograd and autocast see only where the adapter is to have `gradients`.

    So a session computes in the model's dtype, in which its cache is, whatever surrounds a call; see also `planless`.
    """

    @wraps(method)
    def called(self: Adapter, *args: Any, **kwargs: Any) -> Any:
        kind = self.model.device.type
        known = torch.amp.is_autocast_available(kind)  # not of the meta device
        surrounded = known and not self.gradients and torch.is_autocast_enabled(kind)
        exact = torch.autocast(kind, enabled=False) if surrounded else nullcontext()
        attention = planless() if kind == "cuda" and not self.gradients else nullcontext()
        with exact, attention, torch.set_grad_enabled(self.gradients and torch.is_grad_enabled()):
            return method(self, *args, **kwargs)

    return cast(Method, called)


class Adapter:
    """One model and its processor, seen from a session. Tensors are on the model's device but for token ids.

    A family answers `pixels`, `features`, `layout` and `grids`, and the rest where it differs from what stands here.

    Attributes:
        frames_per_step: raw frames that make one temporal step of the model's grid.
        needs: attributes that a processor of the family must have.
        sums_up: whether layers keep a sum of what they have read, in which even padding leaves a trace.
        gradients: whether autograd and autocast see what the adapter does with the model: for training, never in a
            session.
    """

    frames_per_step: int = 1
    needs: tuple[str, ...] = ("tokenizer", "apply_chat_template")
    sums_up: bool = False
    gradients: bool = False

    def __init__(self, model: Any, processor: Any) -> None:
        """Raises TypeError where the processor lacks something."""
        for name in self.needs:
            if not hasattr(processor, name):
                raise TypeError(f"processor must be the model's, with a {name}, got {type(processor).__name__}")
        self.model = model
        self.processor = processor

    @classmethod
    def without_processor(cls, model: Any) -> Adapter:
        """For `grids` and `language_model`, which ask the model alone."""
        return cls(model, SimpleNamespace(**dict.fromkeys(cls.needs)))

    # A conversation

    def text(self, messages: list[dict[str, Any]], answer: bool = True) -> list[torch.Tensor]:
        """Token ids of a conversation, cut where its videos stand: one piece more than there are videos.

        Args:
            messages: as for a chat template; content of {"type": "video"} and {"type": "text", "text": ...}.
            answer: whether the beginning of the assistant's answer is part of it.

        Raises:
            ValueError: where a text contains a video token itself.
        """
        text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer)
        ids = torch.tensor(self.processor.tokenizer(text)["input_ids"], dtype=torch.int64)
        at = (ids == self.video_token_id).nonzero().flatten().tolist()
        videos = sum(p["type"] == "video" for m in messages if isinstance(m["content"], list) for p in m["content"])
        if len(at) != videos:
            name = self.processor.tokenizer.convert_ids_to_tokens(self.video_token_id)
            raise ValueError(f"question and system must not name a video themselves, got {len(at) - videos} {name}")
        ends = [*at, len(ids)]
        return [ids[begin:end] for begin, end in zip([0, *(n + 1 for n in at)], ends, strict=True)]

    @property
    def video_token_id(self) -> int:
        """Of the one token that stands for a video in the text of a chat template."""
        return int(self.model.config.video_token_id)

    @property
    def visual_token_id(self) -> int:
        """Of the token that stands for each of a video's visual tokens in the ids that a processor makes."""
        return self.video_token_id

    def around(self, step: int, fps: float, missing: int = 0, first: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids right before and right behind the visual tokens of a step.

        Args:
            step: its number in the stream.
            fps: raw frames a second.
            missing: of its raw frames, how many only repeat the video's last one.
            first: whether its video begins with it, as the video that begins with step 0 always does.
        """
        return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)

    # Vision

    @staticmethod
    def frame_images(settings: dict[str, Any]) -> Any:
        """The image processor of a FrameProcessor that does what the video processor of these settings does.

        Unless a family says otherwise, each frame becomes a picture of a fixed size.
        """
        size = {"height": 384, "width": 384}
        given = {name: value for name, value in settings.items() if value is not None}
        return picture_images({"size": size, "do_center_crop": False, **given})

    def pixels(self, frames: np.ndarray) -> Any:
        """What `features` takes, of frames (N, height, width, 3) uint8; N is a multiple of frames_per_step."""
        raise NotImplementedError

    def features(self, pixels: Any) -> Features:
        """Of N / frames_per_step steps."""
        raise NotImplementedError

    def many_features(self, pixels: Sequence[Any]) -> list[Features]:
        """Of several streams; families whose tower takes them at once do so."""
        return [self.features(each) for each in pixels]

    # Positions

    def layout(self, before: torch.Tensor, grid: tuple[int, int], fps: float, carrier: bool) -> Layout:
        """Where tokens of a video of H x W = grid a step stand.

        Args:
            before: token ids in front of the video, for models whose rule looks at them.
            grid: (H, W).
            fps: raw frames a second.
            carrier: whether each step ends with a carrier.

        Raises:
            ValueError: where no session can run on the model.
        """
        raise NotImplementedError

    def grids(self, input_ids: torch.Tensor, inputs: dict[str, Any]) -> list[list[torch.Tensor]]:
        """Where the videos' tokens are in a batch of prompts that the processor made.

        Args:
            input_ids: (B, L).
            inputs: the model's other arguments.

        Returns:
            For each row of the batch, for each of its videos, (T, H, W) int64 indices into the row.
        """
        raise NotImplementedError

    # The language model

    @property
    def language_model(self) -> Any:
        """The decoder, without its head: takes inputs_embeds, position_ids, attention_mask, past_key_values."""
        return self.model.model.language_model

    @inference
    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """(L, D) embeddings of token ids (L,)."""
        return self.model.get_input_embeddings()(upload(ids, self.model.device))

    @inference
    def forward(
        self,
        embeds: torch.Tensor,
        positions: torch.Tensor,
        cache: Cache | None,
        mask: torch.Tensor | None = None,
        deepstack: DeepStack | None = None,
    ) -> torch.Tensor:
        """(L, D) last hidden states behind what the cache holds, which grows by the new rows.

        Args:
            embeds: (L, D).
            positions: (A, L) int64, one axis, or time, row and column.
            cache: None: nothing is before the rows, and nothing is kept of them.
            mask: (L, cached + L) bool, True where a new token sees a row; None: causal.
            deepstack: for the families that have it.

        Raises:
            ValueError: where the decoder did not use the cache.
        """
        held = 0 if cache is None else cache.get_seq_length()
        output = self.language_model(
            inputs_embeds=embeds[None].to(self.model.dtype),
            position_ids=upload(self._position_ids(positions), embeds.device),
            attention_mask=None if mask is None else attention_mask(mask, self.model),
            past_key_values=cache,
            use_cache=cache is not None,
            **self._deepstack(deepstack),
        )
        if cache is not None and cache.get_seq_length() != held + len(embeds):
            raise ValueError(
                f"model must be in eval mode, got one that wrote {cache.get_seq_length() - held} of {len(embeds)} rows "
                "to the cache, as gradient checkpointing in training mode does: call model.eval()"
            )
        return output.last_hidden_state[0]

    @inference
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(L, V) of hidden states (L, D)."""
        return self.model.get_output_embeddings()(hidden)

    def _processed(self, clips: Sequence[np.ndarray]) -> Any:
        """What the model's video processor makes of clips (N, height, width, 3) uint8, all their frames.

        It sizes and cuts bytes. They are normalised on the model's device, in its own arithmetic, so that a quarter of
        the bytes of its floats go there.
        """
        videos = self.processor.video_processor
        options: dict[str, Any] = {"do_sample_frames": False, "input_data_format": "channels_first"}
        # one shares out a budget over a clip, and a stream has no length; the other drops tokens before we do
        options |= {name: False for name in ("cap_pixels_per_frame", "use_token_compression") if hasattr(videos, name)}
        later = bool(videos.do_rescale and videos.do_normalize)
        if later:
            options |= {"do_rescale": False, "do_normalize": False}
        tensors = [torch.from_numpy(np.require(clip, requirements="W")).permute(0, 3, 1, 2) for clip in clips]
        found = videos(videos=tensors, return_tensors="pt", **options)
        if later:
            found["pixel_values_videos"] = normalized(upload(found["pixel_values_videos"], self.model.device), videos)
        return found

    def _ids(self, text: str) -> torch.Tensor:
        """(L,) token ids of a piece from the middle of a text."""
        return torch.tensor(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.int64)

    def _position_ids(self, positions: torch.Tensor) -> torch.Tensor:
        """(A, L) -> what the decoder takes for a batch of one."""
        return positions if len(positions) == 1 else positions[:, None]

    def _deepstack(self, deepstack: DeepStack | None) -> dict[str, Any]:
        """The decoder's arguments for it; families without DeepStack take none."""
        return {}


def attention_mask(mask: torch.Tensor, model: Any) -> torch.Tensor:
    """(1, 1, L, M) in the form of the model's attention: bool for SDPA, added to the scores for eager attention.

    Raises ValueError for implementations that take no such mask (FlashAttention).
    """
    kind = model.config.get_text_config()._attn_implementation
    mask = upload(mask[None, None], model.device)
    if kind == "sdpa":
        return mask
    if kind == "eager":
        return torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill_(
            ~mask, torch.finfo(model.dtype).min
        )
    raise ValueError(f"model's attention must be sdpa or eager to take a mask, got {kind!r}")
