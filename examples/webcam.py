"""A camera, a network stream or a file, watched as it comes; a question is asked now and then, nobody waits for it.

Frames go into a queue. What the model is too slow for is given up by the policy, and later frames keep their times.
The hybrid memory with compact positions may run for ever. Needs PyAV.

    python3 examples/webcam.py /dev/video0 --format v4l2 --model Qwen/Qwen2.5-VL-3B-Instruct --device cuda
    python3 examples/webcam.py rtsp://camera.local/stream --when-full coalesce
    python3 examples/webcam.py clip.mp4 --every 2 --frames 100       # a tiny model, its words mean nothing

A file comes as fast as it can be decoded, unless `--realtime` is given.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np

import streamprune_triton as sp
from streamprune_triton.cli.options import device_name
from streamprune_triton.streaming.feed import POLICIES


def frames(source: str, kind: str | None, fps: float, realtime: bool) -> Iterator[tuple[float, np.ndarray]]:
    """(seconds, (height, width, 3) uint8) of a video stream, `fps` a second: a late one stands for those missed."""
    import av

    with av.open(source, format=kind) as container:
        if not container.streams.video:
            raise ValueError(f"{source}: holds no video stream")
        first, tick, began = None, 0, time.monotonic()
        for frame in container.decode(video=0):
            if frame.time is None:
                continue
            first = frame.time if first is None else first
            seconds = frame.time - first
            if seconds * fps < tick:
                continue
            if realtime:
                time.sleep(max(0.0, began + seconds - time.monotonic()))
            image = frame.to_ndarray(format="rgb24")
            while tick <= seconds * fps:
                yield seconds, image
                tick += 1


def report(session: sp.StreamingSession, seconds: float, began: float) -> str:
    stats = session.stats
    rate = stats.frames_in / (time.monotonic() - began)
    gone = stats.frames_dropped + stats.frames_coalesced
    return f"{seconds:.1f} s: {stats.frames_in} frames read ({rate:.1f}/s), {gone} given up, {stats.kv_tokens} KV rows"


def watch(session: sp.StreamingSession, options: argparse.Namespace) -> None:
    """Puts frames, and asks in a thread of its own, one question at a time."""
    began, due, seconds = time.monotonic(), options.every, 0.0
    asked: Future[str] | None = None
    source = frames(options.source, options.format, options.fps, options.realtime)
    with sp.FrameQueue(session, options.size, options.when_full) as queue, ThreadPoolExecutor(1) as asker:
        for seconds, image in islice(source, options.frames):
            queue.put(image)
            if asked is not None and asked.done():
                print(f"{report(session, seconds, began)}\n> {asked.result()}", flush=True)
                asked = None
            if asked is None and seconds >= due:
                asked = asker.submit(queue.ask, options.ask, max_new_tokens=options.max_new_tokens)
                due = seconds + options.every
        if asked is not None:
            print(f"{report(session, seconds, began)}\n> {asked.result()}", flush=True)
        last = queue.ask(options.ask, max_new_tokens=options.max_new_tokens)
        print(f"{report(session, seconds, began)}\n> {last}")


def run(options: argparse.Namespace) -> None:
    try:
        import av
    except ImportError as error:
        raise ImportError("it needs PyAV, which is not installed: pip install av") from error
    device = device_name(options.device)
    model, processor = sp.models.load(options.model) if options.model else sp.models.tiny.qwen2_5_vl()
    config = sp.PruneConfig() if options.model else sp.PruneConfig(temporal_threshold=0.8, spatial_threshold=0.8)
    memory = sp.Memory("hybrid", recent_frames=8, positions="compact")
    session = sp.StreamingSession(model.to(device), processor, config, memory, fps=options.fps)
    try:
        watch(session, options)
    except av.FFmpegError as error:
        raise ValueError(f"{options.source}: FFmpeg cannot read it ({error.strerror})") from error


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="what PyAV opens: a file, a URL, a device")
    parser.add_argument("--format", help="of a device: v4l2 (Linux), avfoundation (macOS), dshow (Windows)")
    parser.add_argument("--fps", type=float, default=2.0, help="frames a second to look at (2)")
    parser.add_argument("--frames", type=int, help="stop after so many")
    parser.add_argument("--realtime", action="store_true", help="play a file at its own pace")
    parser.add_argument("--size", type=int, default=32, help="frames that may wait (32)")
    parser.add_argument("--when-full", choices=POLICIES, default="drop_oldest")
    parser.add_argument("--ask", default="What happened in the last seconds?")
    parser.add_argument("--every", type=float, default=10.0, help="seconds of video between questions (10)")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--model", help="a checkpoint, path or hub name; without it a tiny model")
    parser.add_argument("--device", default="cpu")
    try:
        run(parser.parse_args(argv))
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"webcam.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
