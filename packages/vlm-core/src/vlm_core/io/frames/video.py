"""Every frame of a video file, in order, however long it is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from PIL import Image

from vlm_core.errors import BadSample, UserError
from vlm_core.io.frames.source import FrameSource
from vlm_core.io.frames.times import clock
from vlm_core.io.video.container import DAMAGED, OpenVideo, opened, pyav
from vlm_core.io.video.decode import upright
from vlm_core.io.video.header import stated_end

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame

MISSING_SECONDS = 2
"""Seconds between the last frame and the stated end from which a file counts as cut off."""
log = logging.getLogger(__name__)


class _Decoded(NamedTuple):
    """A frame; not `good` if it is damaged, or predicted from one that may be."""

    frame: VideoFrame
    good: bool


def video_frames(path: Path) -> FrameSource[_Decoded]:
    """The frames of a video with their times from the first one on; raises `UserError` for what can't be opened."""
    try:
        with opened(path):
            pass
    except BadSample as error:
        raise UserError(*error.lines) from None
    return FrameSource(str(path), _frames(path), _load)


def _frames(path: Path) -> Iterator[tuple[float, _Decoded]]:
    """A frame that comes with an earlier time than the one before it has that one's time, and is not good."""
    first = last = None
    with opened(path) as video:
        tick = video.stream.time_base or Fraction(1, 90_000)
        for frame, good in _decoded(video):
            pts = frame.dts if frame.pts is None else frame.pts
            if pts is None:
                continue
            first = pts if first is None else first
            in_order = last is None or pts >= last
            last = pts if in_order else last
            yield float((cast(int, last) - first) * tick), _Decoded(frame, good and in_order)
        _tell_of_a_missing_end(path, video, Fraction(0) if last is None else (last - cast(int, first)) * tick)


def _tell_of_a_missing_end(path: Path, video: OpenVideo, last: Fraction) -> None:
    """A warning, not an error: a header may also state the length of sound that is longer."""
    stated = stated_end(video)
    if stated is not None and stated - last > MISSING_SECONDS:
        log.warning(
            "%s: the last frame is at %s, and its header states a length of %s: the file may be cut off",
            *(path, clock(float(last)), clock(float(stated))),
        )


def _decoded(video: OpenVideo) -> Iterator[_Decoded]:
    """All frames in order of time. A packet that can't be decoded ends what is good until the next keyframe."""
    errors, good = pyav().error.FFmpegError, False
    for packet in _packets(video):
        # what an edit list hides is decoded, and never seen
        good = good or (packet.is_keyframe and packet.is_discard)
        try:
            frames = cast("list[VideoFrame]", packet.decode())
        except errors:
            good = False
            continue
        for frame in frames:
            good = not frame.is_corrupt and (good or frame.key_frame)
            yield _Decoded(frame, good)


def _packets(video: OpenVideo) -> Iterator[Packet]:
    """The packets of the stream and an empty one after the last; a file that breaks off ends there."""
    packets = video.container.demux(video.stream)
    while True:
        try:
            yield next(packets)
        except (StopIteration, pyav().error.FFmpegError):
            return


def _load(item: _Decoded) -> Image.Image:
    if not item.good:
        raise BadSample(DAMAGED, "a frame of the video is damaged")
    return upright(item.frame)
