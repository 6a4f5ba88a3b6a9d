"""The frame that is shown at a time: sought from the keyframe before it, equal to that of decoding everything."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING, NamedTuple, cast

from vlm_core.errors import BadSample
from vlm_core.io.image_formats.limits import COSTLY
from vlm_core.io.video.container import OpenVideo, pyav
from vlm_core.io.video.header import VideoHeader

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame

MAX_WORK = 64 * 10**9
"""Pixels that are decoded of one video: 30,000 frames of 1920×1080, minutes of a core."""
_LEAST_SEEK = Fraction(1)
"""Seconds; a nearer frame is reached by decoding."""
_ROUNDED = Fraction(1, 2000)
"""Seconds by which a frame's time may have been rounded up."""


class Shown(NamedTuple):
    """A frame, and whether the right one is missing or damaged, so that this is the nearest good one before it."""

    frame: VideoFrame
    missing: bool


class FrameReader:
    """Finds frames by time, fastest in ascending order. Times are compared in ticks of the stream's time base."""

    def __init__(self, video: OpenVideo, header: VideoHeader) -> None:
        self.video = video
        self.tick = video.stream.time_base or Fraction(1, 90_000)
        self.start = floor(header.first / self.tick)
        self.frame_ticks = max(1, floor(header.frame_time / self.tick))
        # Matroska and FLV round times to milliseconds, and an MP4 made of them keeps these: a frame may seem later
        rounded = video.kind == "Matroska" or (video.kind == "MP4" and not video.has_constant_rate)
        self.slack = _ROUNDED / self.tick if rounded else 0
        self.least_seek = max(1, floor(_LEAST_SEEK / self.tick))
        self.work = 0
        self._begin()

    def _begin(self, first: VideoFrame | None = None) -> None:
        """Forget all frames; the packets of `self.frames` have begun at the start of the file or at `first`."""
        self.current, self.ahead, self.good = first, None, first is not None
        self.packets: deque[int] = deque()
        self.packet_end = 0
        if first is None:
            self.frames = self._decoded()

    def at(self, time: Fraction) -> Shown:
        """The frame shown at `time`: the last one that begins before or at it. `BadSample` if there is none."""
        ticks = floor(time / self.tick + self.slack)
        reached = self.start if self.current is None else pts_of(self.current)
        far = self.video.has_frame_times and ticks - reached > self.least_seek
        if ticks < reached or far:
            self._seek(ticks, reached)
        self._decode_to(ticks)
        due = max((pts for pts in self.packets if pts <= ticks), default=None)
        while self.packets and due is not None and len(self.packets) > 64:
            self.packets.popleft()
        if self.current is None:
            return self._first_good()
        missing = due is not None and due - pts_of(self.current) >= max(1, self.frame_ticks // 2)
        past_end = self.ahead is None and ticks >= self.packet_end + self.frame_ticks
        return Shown(self.current, missing or past_end)

    def _decode_to(self, ticks: int) -> None:
        """Make `current` the last good frame at or before `ticks`, `ahead` the first frame after it."""
        while True:
            if self.ahead is None:
                self.ahead = next(self.frames, None)
            if self.ahead is None or pts_of(self.ahead) > ticks:
                return
            if self._is_good(self.ahead):
                self.current = self.ahead
            self.ahead = None

    def _is_good(self, frame: VideoFrame) -> bool:
        """Whether neither this frame nor one that it may be predicted from is damaged."""
        if frame.is_corrupt:
            self.good = False
        elif frame.key_frame:
            self.good = True
        return self.good

    def _first_good(self) -> Shown:
        """The first good frame of the video, for a time before it."""
        while self.current is None:
            frame, self.ahead = self.ahead or next(self.frames, None), None
            if frame is None:
                raise BadSample("no-frames", "no frame of it can be decoded")
            if self._is_good(frame):
                self.current = frame
        return Shown(self.current, pts_of(self.current) - self.start >= 2 * self.frame_ticks)

    def _seek(self, ticks: int, reached: int) -> None:
        """Continue at a keyframe before `ticks`, from which decoding is the same as from the start."""
        back = 0
        while self.video.has_frame_times and (target := ticks - back) > self.start:
            if self._land(target, ticks):
                assert self.current is not None
                if 0 <= pts_of(self.current) <= reached < ticks:  # decoding would have been shorter
                    self.least_seek = 2 * (ticks - reached)
                return
            back = max(self.least_seek, 2 * back)
        self.video.restart()
        self._begin()

    def _land(self, target: int, ticks: int) -> bool:
        """Whether a seek to `target` arrives at an intact keyframe at or before `ticks`."""
        errors = pyav().error.FFmpegError
        try:
            self.video.container.seek(target, stream=self.video.stream, backward=True)
        except errors:
            return False
        self._begin()
        key = None
        for frame in self.frames:
            key = self.keyframe if key is None else key
            if key is None or pts_of(frame) < key:
                continue  # predicted from frames before the keyframe
            if not frame.key_frame or frame.is_corrupt or pts_of(frame) > ticks:
                return False
            self.current, self.good = frame, True
            return True
        return False

    def _decoded(self) -> Iterator[VideoFrame]:
        """The frames from the present packet on, in order of time; a packet that can't be decoded ends what is good."""
        errors = pyav().error.FFmpegError
        self.keyframe: int | None = None
        for packet in self._demuxed():
            if packet.is_keyframe and self.keyframe is None:
                self.keyframe = packet.pts
                self.good = self.good or packet.is_discard  # an edit list hides it: it is decoded, never seen
            if packet.pts is not None and not packet.is_discard:
                self.packets.append(packet.pts)
                self.packet_end = max(self.packet_end, packet.pts + (packet.duration or self.frame_ticks))
            try:
                frames = cast("list[VideoFrame]", packet.decode())
            except errors:
                self.good = False
                continue
            for frame in frames:
                self._add_work(frame)
                if frame.pts is not None or frame.dts is not None:
                    yield frame

    def _demuxed(self) -> Iterator[Packet]:
        """The packets of the stream and, after the last one, an empty one; a file may end with an error."""
        errors = pyav().error.FFmpegError
        packets = self.video.container.demux(self.video.stream)
        while True:
            try:
                yield next(packets)
            except StopIteration:
                return
            except errors:
                return

    def _add_work(self, frame: VideoFrame) -> None:
        self.work += frame.width * frame.height
        if self.work > MAX_WORK:
            text = f"more than {MAX_WORK // 10**9} gigapixels are decoded for the frames that are read"
            raise BadSample(COSTLY, f"{text}; re-encode it, smaller or with more keyframes")


def pts_of(frame: VideoFrame) -> int:
    pts = frame.dts if frame.pts is None else frame.pts
    assert pts is not None
    return pts
