"""streamprune demo [FILE]."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import options

if TYPE_CHECKING:
    from . import work

QUESTION = "What happens in the video?"
REPORT = "streamprune-demo"
TITLE = "a clip of shapes made on the spot"
SEED, STEPS = 14, 16  # of the clip, on which the model was not trained
# For the small model's features: what stands still is above the first, what looks like its neighbour above the second.
TEMPORAL, SPATIAL = 0.8, 0.9
# What is asked while the clip runs, after so many steps: things in view, and things that are gone by then
ASKED = {
    4: "where does red go ?",
    7: "how many shapes ?",
    10: "what shape is green ?",
    13: "what does yellow do ?",
    16: "where was purple ?",
}
NOTE = (
    "The model is small and was trained for such clips, not on this one; it knows the words of this task alone. The "
    "thresholds (temporal {}, spatial {}) are for its features."
)


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "demo",
        help="see it work: a made-up clip, a small trained model, no download",
        description="A clip of coloured shapes made on the spot, streamed through a small model that was trained for "
        "such clips, with questions while it runs and the truth beside the answers. With FILE: the whole path on it, "
        "and a tiny model with random weights.",
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="a video instead of the made-up clip")
    parser.add_argument("--report", metavar="DIR", default=REPORT, help=f"where the report goes ({REPORT})")
    options.add_common(parser, fps="default: 1 of a FILE; the made-up clip has 2", device="default: cpu")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the job on the file, or on the made-up clip."""
    from . import work

    return work.run(_shapes(args) if args.file is None else _file(args))


def _shapes(args: argparse.Namespace) -> work.Job:
    from ..config import PruneConfig
    from ..shapes.clip import ShapesClip
    from ..video import check_fps
    from . import work

    config = options.prune_config(args.config, PruneConfig(temporal_threshold=TEMPORAL, spatial_threshold=SPATIAL))
    clip = ShapesClip(SEED, STEPS)
    if args.fps is not None and check_fps(args.fps) != clip.fps:
        raise ValueError(f"--fps is for a FILE: the made-up clip has {clip.fps:g} frames a second, got {args.fps:g}")
    device = options.device_name(args.device or "cpu")
    job = work.Job(clip, TITLE, config, work.SHAPES, device, clip.fps, args.ask or [], args.max_new_tokens, args.report)
    frames = int(clip.fps * (clip.duration or 0)) // STEPS
    job.during = {n * frames: work.Asked(text, clip.ask(n - 1)[text]) for n, text in ASKED.items()}
    job.notes = [NOTE.format(config.temporal_threshold, config.spatial_threshold)]
    return job


def _file(args: argparse.Namespace) -> work.Job:
    from ..video import Video, check_fps
    from . import work

    config = work.configured(args.config, None)
    source = Video(args.file, check_fps(1.0 if args.fps is None else args.fps))
    device = options.device_name(args.device or "cpu")
    questions = args.ask or [QUESTION]
    return work.Job(
        source, source.path.name, config, None, device, source.fps, questions, args.max_new_tokens, args.report
    )
