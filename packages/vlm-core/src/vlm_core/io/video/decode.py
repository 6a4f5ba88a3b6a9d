"""Sampled frames of a video as upright RGB images."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from PIL import Image

from vlm_core.errors import BadSample
from vlm_core.io.video.container import opened
from vlm_core.io.video.frame_reader import FrameReader, Shown
from vlm_core.io.video.header import VideoHeader, header_of
from vlm_core.io.video.sampling import sample_times
from vlm_core.io.video.sources import FileSource, Sampling

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

T = TypeVar("T")
_HALF = 2**15
MAX_ASPECT = 200
_UPRIGHT = {
    (1, 0, 0, 1): None,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
"""By the display matrix (a, b, c, d), which takes (x, y) to (a·x + c·y, b·x + d·y)."""
_BT709, _BT601 = 1, 5
_LIMITED_RANGE, _FULL_RANGE = 1, 2
_MATRICES = frozenset((_BT709, 4, _BT601, 6, 7, 9))
"""H.273's numbers of YUV matrices that swscale knows: BT.709, FCC, BT.601 twice, SMPTE 240M, BT.2020."""


@dataclass(frozen=True)
class SampledVideo(Generic[T]):
    """Frames of a video in order and their times in seconds from its first frame.

    `missing` frames are not in the file, or damaged: the nearest good one before stands in their place.
    """

    frames: list[T]
    times: list[float]
    missing: int


def sample_video(
    source: FileSource, sampling: Sampling, convert: Callable[[Image.Image], T]
) -> SampledVideo[T]:
    """The frames that `sampling` says, each converted from upright RGB as it is decoded.

    Raises `BadSample` naming the file as `opened`, for one that costs too much to decode, and if more than half of the
    frames are missing.
    """
    with opened(source) as video:
        header = header_of(video)
        times = sample_times(header.first, header.last, sampling)
        reader = FrameReader(video, header)
        frames: list[T] = []
        missing, last = 0, None
        for time in times:
            shown = reader.at(time)
            repeated = last is not None and shown.frame is last.frame
            frames.append(frames[-1] if repeated else convert(upright(shown.frame)))
            missing, last = missing + shown.missing, shown
        assert last is not None, "a sampling has a frame"
        _check_missing(missing, len(times), header, last)
        return SampledVideo(frames, [float(time - header.first) for time in times], missing)


def first_frame(source: FileSource) -> Image.Image:
    """The first frame of a video as upright RGB; raises `BadSample` as `sample_video`."""
    return sample_video(source, Sampling(frames=1), lambda image: image).frames[0]


def _check_missing(missing: int, count: int, header: VideoHeader, last: Shown) -> None:
    if 2 * missing > count:
        seconds, end = float(header.last - header.first), float(last.frame.time or 0) - float(header.first)
        text = f"{missing} of {count} frames are missing or damaged: of {seconds:.1f} s the last good frame is at"
        raise BadSample("truncated", f"{text} {end:.1f} s")


def upright(frame: VideoFrame) -> Image.Image:
    """A frame as RGB, turned as its display matrix says; raises `BadSample` for an angle that is no multiple of 90°."""
    if max(frame.width, frame.height) > MAX_ASPECT * min(frame.width, frame.height):
        raise BadSample(
            "too-narrow", f"frames of {frame.width}×{frame.height} pixels; more than {MAX_ASPECT}:1"
        )
    image = rgb_image(frame)
    method = _turn(frame)
    return image if method is None else image.transpose(method)


def rgb_image(frame: VideoFrame) -> Image.Image:
    """A frame as RGB by the matrix and the range that it states; without them BT.601 and limited, as in FFmpeg.

    PyAV takes both from the frame only if they change, and swscale has a default: so all four are given, and the
    matrix of the result, which RGB does not have, is another one. Grey has the full range, as in FFmpeg.
    """
    if frame.format.is_rgb:
        return frame.to_image()
    matrix = frame.colorspace if frame.colorspace in _MATRICES else _BT601
    full = frame.color_range == _FULL_RANGE or frame.format.name.startswith(("yuvj", "gray"))
    return frame.to_image(
        src_colorspace=matrix,
        dst_colorspace=_BT601 if matrix == _BT709 else _BT709,
        src_color_range=_FULL_RANGE if full else _LIMITED_RANGE,
        dst_color_range=_FULL_RANGE,
    )


def _turn(frame: VideoFrame) -> Image.Transpose | None:
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d = (_sign(value) for value in struct.unpack("=5i", bytes(matrix)[:20]))
    if (a, b, c, d) not in _UPRIGHT:
        raise BadSample("variant", "its rotation is no multiple of 90°; re-encode it")
    return _UPRIGHT[a, b, c, d]


def _sign(value: int) -> int:
    """-1, 0 or 1 of a number in 16.16 fixed point."""
    return (value > _HALF) - (value < -_HALF)
