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
    parser.add_argument(
        "--model", help="a checkpoint, path or hub name, or tiny:FAMILY with random weights (default: tiny:qwen2_5_vl)"
    )
    parser.add_argument("--report", metavar="DIR", help="write report.html and pictures there")
    parser.add_argument("--save", metavar="FILE", help="write the session there, to resume another time")
    parser.add_argument("--resume", metavar="FILE", help="go on from a session saved with the same options")
    options.add_memory(parser)
    options.add_common(parser, fps="default: 1", device="default: a GPU where there is one")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Opens the video and runs the job."""
    from ..video import Video
    from . import work

    config, memory = work.configured(args.config, args.model), options.memory(args)
    work.check_model(args.model)
    options.check_folder("--save", args.save)
    options.check_file("--resume", args.resume)
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
            memory,
            args.save,
            args.resume,
        )
        return work.run(job)
