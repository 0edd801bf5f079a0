"""streamprune demo [FILE]."""

from __future__ import annotations

import argparse

from . import options

QUESTION = "What happens in the video?"
REPORT = "streamprune-demo"
FPS = 2.0  # of the made-up clip


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "demo",
        help="see it work: a made-up clip, a tiny model, no download",
        description="The whole path on a clip made on the spot (or FILE) and a tiny model with random weights.",
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="a video instead of the made-up clip")
    parser.add_argument("--report", metavar="DIR", default=REPORT, help=f"where the report goes ({REPORT})")
    options.add_common(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the job on the file, or on the synthetic clip."""
    from ..synthetic import SyntheticClip
    from ..video import Video, check_fps
    from . import work

    config = work.configured(args.config, None)
    fps = check_fps((1.0 if args.file else FPS) if args.fps is None else args.fps)
    source: Video | SyntheticClip = Video(args.file, fps) if args.file else SyntheticClip(fps=fps)
    title = source.path.name if isinstance(source, Video) else "a clip made on the spot"
    device = options.device_name(args.device or "cpu")
    questions = args.ask or [QUESTION]
    return work.run(work.Job(source, title, config, None, device, fps, questions, args.max_new_tokens, args.report))
