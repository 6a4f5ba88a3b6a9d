"""The options of `--watch`, and the source of frames that they name."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_core.cli.common import count, path_text
from vlm_core.errors import UserError, shown
from vlm_core.io.frames.times import seconds
from vlm_core.io.paths import expanded

if TYPE_CHECKING:
    from vlm_core.io.frames.source import FrameSource
    from vlm_core.states.manifest import SavedStream

_DEFAULTS = {
    "fps": None,
    "rate": None,
    "stall": 10.0,
    "keep_every": 60.0,
    "keep_mb": 1024,
    "max_frames": None,
    "as_video": None,
}
_PIPE = "ffmpeg -i FILE -f image2pipe -c:v mjpeg - | vlm-chat MODEL --watch -"


def add_watch(parser: argparse.ArgumentParser) -> None:
    """Add `--watch` and its options."""
    group = parser.add_argument_group(
        "watching", "with --watch; questions are answered while frames are read"
    )
    group.add_argument(
        "--watch",
        type=path_text,
        metavar="SOURCE",
        help="a video, a folder of images, an animated GIF, PNG or WebP, a camera (/dev/video0), or - for JPEG or PNG "
        "images from standard input",
    )
    group.add_argument(
        "--fps", type=_above_zero, metavar="X", help="read at most X frames a second; default: all"
    )
    group.add_argument(
        "--rate",
        type=_above_zero,
        metavar="X",
        help="frames a second of a folder (default 1) or of standard input, where by default times are those of "
        "arrival and frames that come too fast are dropped",
    )
    group.add_argument(
        "--stall",
        type=_time,
        metavar="TIME",
        help="warn if standard input gives nothing for so long; default 10s",
    )
    group.add_argument(
        "--keep-every", type=_time, metavar="TIME", help="keep a state for /at once in this time; default 60s"
    )
    group.add_argument(
        "--keep-mb",
        type=count,
        metavar="N",
        help="memory of kept states in MB, and their part of the file of --save; default 1024",
    )
    group.add_argument(
        "--max-frames",
        type=count,
        metavar="N",
        help="read at most N frames: a Transformer's state grows with each",
    )
    group.add_argument(
        "--as-video",
        action="store_true",
        default=None,
        help="read the frames as those of one video, for models that were trained on videos; default: as images",
    )
    parser.set_defaults(**dict.fromkeys(_DEFAULTS))


def _above_zero(text: str) -> float:
    """Argument type: a number above 0, at most 1000."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1000:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and at most 1000, got {shown(text)}")
    return number


def _time(text: str) -> float:
    """Argument type: a time above 0."""
    try:
        if (number := seconds(text)) > 0:
            return number
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    raise argparse.ArgumentTypeError("expected a time above 0")


def check_watch(args: argparse.Namespace, stream: SavedStream | None) -> None:
    """Raise `UserError` for options that don't belong together; fill in the defaults of `--watch`.

    `stream` is that of the file of `--resume`.
    """
    if args.watch is None:
        for name in _DEFAULTS:
            if getattr(args, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} is for --watch")
        if stream is None:
            return
    elif args.resume and stream is None:
        raise UserError(f"{args.resume}: the state of a conversation; --watch continues that of a stream")
    for name in ("image", "video"):
        if getattr(args, name):
            raise UserError(f"--{name}: with --watch all images come from the stream")
    if args.state_cache:
        raise UserError("--state-cache: it is for conversations, not for --watch")
    if args.as_video and stream is not None and not stream.as_video:
        raise UserError(f"--as-video: the frames in {args.resume} were read as images")
    if args.stall is not None and args.watch != "-":
        raise UserError("--stall is for --watch -")
    for name in ("keep_every", "keep_mb"):
        if getattr(args, name) is not None and args.ask is not None and not args.save:
            raise UserError(
                f"--{name.replace('_', '-')}: --ask is about the end; without --save no state before it is kept"
            )
    for name, value in _DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def watch_source(args: argparse.Namespace) -> FrameSource[Any] | None:
    """The source of `--watch`; None without it. Raises `UserError` for one that can't be read."""
    if args.watch is None:
        return None
    from vlm_core.io.frames.camera import camera_frames, is_device
    from vlm_core.io.frames.files import file_frames
    from vlm_core.io.frames.pipe import pipe_frames

    if args.watch == "-":
        descriptor = _frames_descriptor(ask=args.ask is not None)
        return pipe_frames(descriptor, args.rate, live=args.ask is None, stall=args.stall)
    if "://" in args.watch:
        raise UserError(f"{args.watch:.80}: URLs are not supported; pipe the stream in: {_PIPE}")
    path = Path(expanded(args.watch))
    if is_device(path):
        if args.rate is not None:
            raise UserError("--rate: a camera has times of its own; --fps leaves frames out")
        return camera_frames(path)
    if not path.exists():
        raise UserError(f"{args.watch}: no such file, folder or camera")
    return file_frames(path, args.rate)


def _frames_descriptor(*, ask: bool) -> int:
    """A descriptor of the piped frames. Unless the question is given, standard input becomes the terminal.

    Raises `UserError` if standard input is a terminal, or there is none for questions.
    """
    if sys.stdin.isatty():
        raise UserError(f"--watch -: standard input is a terminal; pipe images into it: {_PIPE}")
    if ask:
        return sys.stdin.fileno()
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
    except OSError:
        raise UserError(
            "--watch -: there is no terminal to type questions, as standard input has the frames; ask one with --ask"
        ) from None
    descriptor = os.dup(0)
    os.dup2(terminal, 0)
    os.close(terminal)
    return descriptor
