"""A clip and a question as the unmodified model takes them, and a decoder's path over some of the visual tokens."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import torch

from .bench import FPS, QUESTION, Bench

VIDEO = 2  # of mm_token_type_ids


@dataclass(frozen=True)
class Prompt:
    """On the host.

    Attributes:
        ids: (L,) of the whole prompt, a video token for each visual token.
        first: where the visual tokens begin.
        grid: (1, 3), T, H and W in patches.
        merge: patches in a row that make one token.
    """

    ids: torch.Tensor
    first: int
    grid: torch.Tensor
    merge: int

    @classmethod
    def of(cls, bench: Bench, grid: torch.Tensor) -> Prompt:
        content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
        before, behind = bench.adapter.text([{"role": "user", "content": content}])
        merge = bench.model.config.vision_config.spatial_merge_size
        video = torch.full((int(grid.prod()) // merge**2,), bench.adapter.video_token_id)
        return cls(torch.cat([before, video, behind]), len(before), grid, merge)

    @property
    def video(self) -> slice:
        return slice(self.first, self.first + int(self.grid.prod()) // self.merge**2)

    def extras(self, bench: Bench) -> dict[str, torch.Tensor]:
        """What the model's own rule for positions takes beside the ids, in this transformers."""
        given = {
            "video_grid_thw": self.grid,
            "second_per_grid_ts": torch.tensor([bench.adapter.frames_per_step / FPS]),
            "mm_token_type_ids": VIDEO * (self.ids == bench.adapter.video_token_id)[None].int(),
        }
        takes = inspect.signature(bench.model.model.get_rope_index).parameters
        return {name: value for name, value in given.items() if name in takes}

    def inputs(self, bench: Bench, patches: torch.Tensor) -> dict[str, torch.Tensor]:
        """What `generate` takes."""
        ids = self.ids[None]
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": patches}
        return {name: value.to(bench.device) for name, value in (given | self.extras(bench)).items()}

    def positions(self, bench: Bench) -> torch.Tensor:
        """(3, L), by the model's own rule."""
        return bench.model.model.get_rope_index(self.ids[None], **self.extras(bench))[0][:, 0]

    def embeds(self, bench: Bench, rows: torch.Tensor) -> torch.Tensor:
        """(L', D): the text's embeddings with visual rows (K, D) between them."""
        before, behind = (bench.adapter.embed(ids) for ids in (self.ids[: self.first], self.ids[self.video.stop :]))
        return torch.cat([before, rows, behind])


@torch.no_grad()
def logits_of(bench: Bench, keep: torch.Tensor | None) -> torch.Tensor:
    """(V,) behind the clip and the question; all tokens are read, what `keep` (T, H, W) drops is hidden by a mask."""
    from transformers import DynamicCache

    pixels = bench.adapter.pixels(bench.frames(0, bench.sizes.clip))
    prompt = Prompt.of(bench, pixels[1])
    embeds = prompt.embeds(bench, bench.adapter.features(pixels).x.flatten(0, 2))
    mask = None
    if keep is not None:
        seen = torch.ones(len(embeds), dtype=torch.bool)
        seen[prompt.video] = keep.flatten().cpu()
        mask = seen.expand(len(seen), -1).tril() | torch.eye(len(seen), dtype=torch.bool)
    hidden = bench.adapter.forward(embeds, prompt.positions(bench), DynamicCache(), mask)
    return bench.adapter.logits(hidden[-1:])[0].float()
