"""streamprune video FILE."""

from __future__ import annotations

import argparse

from . import options


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "video",
        help="prune a video, ask a model about it, write a report",
        description="Streams a video through a vision-language model, dropping redundant visual tokens as they come.",
    )
    parser.add_argument("file", metavar="FILE", help="a video in any container that FFmpeg reads")
    parser.add_argument("--model", help="a Qwen2.5-VL checkpoint, path or hub name (default: tiny, random weights)")
    parser.add_argument("--report", metavar="DIR", help="write report.html and pictures there")
    options.add_common(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Opens the video and runs the job."""
    from ..video import Video
    from . import work

    config = work.configured(args.config, args.model)
    fps = 1.0 if args.fps is None else args.fps
    with Video(args.file, fps) as source:
        job = work.Job(
            source,
            source.path.name,
            config,
            args.model,
            options.device_name(args.device),
            fps,
            args.ask or [],
            args.max_new_tokens,
            args.report,
        )
        return work.run(job)
