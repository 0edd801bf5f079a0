"""VideoScan's memory in a loop of your own: no session, only the pruner, the cache and the model's own modules.

Each frame is read as its kept tokens and its carrier; then all but the carrier leaves the KV cache. The answer is that
of `StreamingSession(memory=Memory("carriers"))`, decoded greedily, up to that memory's 128 steps: here no carrier ever
leaves. For families without DeepStack and without text between frames: Qwen2-VL, Qwen2.5-VL, LLaVA-OneVision,
LLaVA-NeXT-Video.

    python3 examples/custom_loop.py                                            # a tiny model, its words mean nothing
    python3 examples/custom_loop.py --model Qwen/Qwen2.5-VL-3B-Instruct --ask "What moves?" clip.mp4
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

import streamprune_triton as sp
from streamprune_triton.models.positions import Cursor
from streamprune_triton.synthetic import SyntheticClip
from streamprune_triton.video import Video

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "llava_onevision", "llava_next_video")
FPS = 2.0


@torch.no_grad()
def answer(
    model: Any, processor: Any, frames: np.ndarray, question: str, config: sp.PruneConfig, most: int = 32
) -> str:
    """A greedy answer about frames (N, height, width, 3) uint8, N a multiple of the frames of a step."""
    adapter = sp.models.adapter(model)(model, processor)  # pixels, text and positions by the family's rules
    content = [{"type": "video"}, {"type": "text", "text": question}]
    before, behind = adapter.text([{"role": "user", "content": content}])
    pruner, cache = sp.StreamPruner(config), sp.CarrierCache(model.config)

    def read(embeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The last hidden state behind rows (L, D) at positions (axes, L)."""
        position_ids = (positions[:, None] if len(positions) > 1 else positions).to(model.device)
        output = model.model.language_model(
            inputs_embeds=embeds[None], position_ids=position_ids, past_key_values=cache, use_cache=True
        )
        return output.last_hidden_state[0, -1]

    size, layout, cursor = adapter.frames_per_step, None, Cursor(len(before))
    for n in range(0, len(frames), size):
        x = adapter.features(adapter.pixels(frames[n : n + size])).x  # (1, H, W, D)
        if layout is None:
            layout = adapter.layout(before, x.shape[1:3], FPS, carrier=True)
            read(adapter.embed(before), torch.arange(len(before)).expand(layout.axes, -1))
        pruned = pruner(x)
        place = layout.place(cursor, 0, 0)  # of H*W tokens and the carrier behind them
        cursor = place.next
        at, held = torch.cat([pruned.indices.cpu(), torch.tensor([-1])]), cache.get_seq_length()
        read(torch.cat([pruned.tokens, pruned.carriers]), place.positions[:, at])
        cache.drop(range(held, held + len(pruned.tokens)))  # the carrier moves into the first hole

    ids, position, said = behind, layout.end(cursor), []
    while len(said) < most:
        hidden = read(adapter.embed(ids), (position + torch.arange(len(ids))).expand(layout.axes, -1))
        ids, position = model.get_output_embeddings()(hidden).argmax(-1, keepdim=True).cpu(), position + len(ids)
        if int(ids) in np.atleast_1d(model.generation_config.eos_token_id):
            break
        said.append(int(ids))
    print(f"{len(frames)} frames, {cache.get_seq_length()} rows in the KV cache, {cache.nbytes / 1024:.0f} KiB")
    return processor.tokenizer.decode(said, skip_special_tokens=True)


def run(options: argparse.Namespace) -> str:
    clip = Video(options.file, FPS) if options.file else SyntheticClip(fps=FPS)
    frames = np.stack([image for _, image in clip])
    if len(frames) < 2:
        raise ValueError(f"{options.file}: one frame at {FPS:g} a second: give a longer video")
    model, processor = sp.models.load(options.model) if options.model else sp.models.tiny.qwen2_5_vl()
    if model.config.model_type not in FAMILIES:
        raise ValueError(f"--model must be of one of {', '.join(FAMILIES)}, got {model.config.model_type}")
    config = sp.PruneConfig() if options.model else sp.PruneConfig(temporal_threshold=0.8, spatial_threshold=0.8)
    return answer(model, processor, frames[: len(frames) // 2 * 2], options.ask, config)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="a video; without it a clip is made on the spot")
    parser.add_argument("--model", help="a checkpoint, path or hub name; without it a tiny model")
    parser.add_argument("--ask", default="What happens in the video?")
    try:
        print(run(parser.parse_args(argv)))
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"custom_loop.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
