"""What a video's header says: size, first and last time, frame rate. The frames that are read follow from it alone."""

from __future__ import annotations

import re
from contextlib import suppress
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING, NamedTuple

from vlm_core.errors import BadSample
from vlm_core.io.image_formats.limits import COSTLY
from vlm_core.io.video.container import OpenVideo, opened, pyav
from vlm_core.io.video.sampling import sample_count
from vlm_core.io.video.sources import FileSource, Sampling

if TYPE_CHECKING:
    from av.video.stream import VideoStream

MAX_SECONDS = 24 * 3600
SCAN_BYTES = 256 * 2**20
"""Files up to this size are read to the end if their header has no length."""
_DURATION = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d{1,9})?)")
_DEFAULT_RATE = 25


class VideoHeader(NamedTuple):
    """`first` and `last` are the times in seconds at which the first and the last frame appear."""

    kind: str
    codec: str
    width: int
    height: int
    first: Fraction
    last: Fraction
    frame_time: Fraction
    """Mean seconds between frames."""


def read_header(source: FileSource) -> VideoHeader:
    """The header of a video, without decoding it; raises `BadSample` as `opened` and for one that is too long."""
    with opened(source) as video:
        return header_of(video)


def frame_count(source: FileSource, sampling: Sampling) -> int:
    """The number of frames that `sample_video` returns, without decoding."""
    header = read_header(source)
    return sample_count(header.first, header.last, sampling)


def stated_end(video: OpenVideo) -> Fraction | None:
    """Seconds from the first frame to the end, as the header states them; None if it doesn't."""
    tick = video.stream.time_base or Fraction(1, 90_000)
    first = (video.stream.start_time or 0) * tick
    end = _end(video, video.stream, tick, first)
    return None if end is None else end - first


def header_of(video: OpenVideo) -> VideoHeader:
    """As `read_header`, of an open video, whose next packet is then the first one."""
    stream = video.stream
    tick = stream.time_base or Fraction(1, 90_000)
    rate = stream.average_rate or stream.base_rate
    frame_time = 1 / Fraction(rate) if rate and rate > 0 else Fraction(1, _DEFAULT_RATE)
    first = (stream.start_time or 0) * tick
    end = _end(video, stream, tick, first)
    if end is None or end <= first:
        first, last, frame_time = _scanned(video, tick, frame_time)
    elif video.kind == "MP4" and not video.has_constant_rate:
        last = _last_time(video, tick, end, max(first, end - frame_time))
    else:
        last = max(first, end - frame_time)
    if last - first > MAX_SECONDS:
        raise BadSample(
            COSTLY, f"{floor(last - first)} s long; at most {MAX_SECONDS} s are read: cut it in parts"
        )
    codec = video.stream.codec_context.codec.canonical_name
    return VideoHeader(video.kind, codec, stream.width, stream.height, first, last, frame_time)


def _end(video: OpenVideo, stream: VideoStream, tick: Fraction, first: Fraction) -> Fraction | None:
    """The time at which the last frame ends; None if the header doesn't say it."""
    if video.kind in ("MP4", "AVI"):
        return first + stream.duration * tick if stream.duration else None
    if video.kind == "Matroska":
        if match := _DURATION.match(str(stream.metadata.get("DURATION", ""))):
            hours, minutes, seconds = match.groups()
            return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
        return Fraction(video.container.duration, 10**6) if video.container.duration else None
    return None  # FFmpeg estimates the length of MPEG streams


def _last_time(video: OpenVideo, tick: Fraction, end: Fraction, default: Fraction) -> Fraction:
    """The time of the last frame at a variable rate: the latest packet from the last keyframe on.

    `default` for a file whose end is cut off, and for one whose last keyframe is more than `SCAN_BYTES` before its end.
    """
    times, read = list[int](), 0
    with suppress(pyav().error.FFmpegError):
        video.container.seek(floor(end / tick), stream=video.stream, backward=True)
        for packet in video.container.demux(video.stream):
            times += [packet.pts] if packet.pts is not None and not packet.is_discard else []
            read += packet.size
            if read > SCAN_BYTES:
                times = []
                break
    video.restart()
    return max(times) * tick if times else default


def _scanned(video: OpenVideo, tick: Fraction, frame_time: Fraction) -> tuple[Fraction, Fraction, Fraction]:
    """First time, last time and mean frame time, from the times of all packets, without decoding."""
    if video.size > SCAN_BYTES:
        text = f"its header has no length, and it has {video.size} bytes; at most {SCAN_BYTES} are scanned: remux it"
        raise BadSample(COSTLY, text)
    packets = video.container.demux(video.stream)
    times = {packet.pts for packet in packets if packet.pts is not None and not packet.is_discard}
    video.restart()
    if not times:
        raise BadSample("no-frames", "its video stream has no frames")
    first, last = min(times) * tick, max(times) * tick
    return first, last, (last - first) / (len(times) - 1) if last > first else frame_time
