"""Opens a video so that FFmpeg reads the given file and nothing else, with one demuxer and few decoders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from vlm_core.errors import BadSample, UserError, one_line
from vlm_core.io.files import open_row_file
from vlm_core.io.image_formats import format_of
from vlm_core.io.image_formats.video_signatures import CONTAINERS, HEAD, container_of, other_kind
from vlm_core.io.video.mp4_checks import check_mp4
from vlm_core.io.video.sources import FileSource, StoredImage, image_name

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

MAX_PIXELS = 16_000_000
"""Pixels of a frame; 4096×2160 are 9 million. A decoder may hold 16 frames."""
PROBE_BYTES, PROBE_MICROSECONDS = 5_000_000, 5_000_000
"""What is read to find the streams of a file that has no header."""
MAX_STREAMS = 100
CODECS = frozenset(
    ("av1", "h263", "h264", "hevc", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v3", "vp8", "vp9")
)
"""Codecs that are decoded, by FFmpeg's names."""
LATE_STREAMS = frozenset(("mpegts", "mpeg"))
"""Demuxers that find streams while they read packets."""
DAMAGED, NO_VIDEO, NOT_A_VIDEO = "damaged", "no-video", "not-a-video"
INSTALL = "pip install 'vlm-core[video]'"


class OpenVideo:
    """An open container and its video stream; both are valid until the `with` block of `opened` ends."""

    def __init__(self, file: BinaryIO, size: int, name: str, kind: str) -> None:
        self.file, self.size, self.name, self.kind = file, size, name, kind
        self.container: InputContainer
        self.stream: VideoStream
        self.restart()

    def restart(self) -> None:
        """Open the container again: its next packet is the first one, whatever its index says."""
        self.close()
        self.file.seek(0)
        self.container = _container(self.file, CONTAINERS[self.kind])
        self.stream = _stream(self.container)

    @property
    def has_frame_times(self) -> bool:
        """Whether each frame has its time in the file; an MPEG stream may have few, exact only from its start."""
        return CONTAINERS[self.kind] not in LATE_STREAMS

    @property
    def has_constant_rate(self) -> bool:
        """Whether an MP4 states one length for all its frames."""
        return self.stream.average_rate == self.stream.base_rate

    def close(self) -> None:
        if hasattr(self, "container"):
            self.container.close()


def pyav() -> Any:
    """The module `av`; raises `UserError` that names the extra if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise UserError(f"reading videos needs PyAV: {INSTALL} ({one_line(error)})") from None
    return av


@contextmanager
def opened(source: FileSource) -> Iterator[OpenVideo]:
    """The video of a file; `BadSample` with its name for one that is missing, no video, damaged or too costly."""
    pyav()
    name = image_name(source)
    if isinstance(source, StoredImage):
        data = source.read()
        with _faults(name), _open(BytesIO(data), len(data), name) as video:
            yield video
        return
    with open_row_file(source) as file, _faults(name):
        size = os.fstat(file.fileno()).st_size
        with _open(file, size, name) as video:
            yield video


@contextmanager
def _open(file: BinaryIO, size: int, name: str) -> Iterator[OpenVideo]:
    kind = kind_of(file.read(HEAD))
    if kind == "MP4":
        check_mp4(file, size)
    video = OpenVideo(file, size, name, kind)
    try:
        yield video
    finally:
        video.close()


@contextmanager
def _faults(name: str) -> Iterator[None]:
    """Errors of a file become `BadSample` with its name."""
    errors = pyav().error
    try:
        yield
    except BadSample as error:
        raise BadSample(error.reason, f"{name}: {error}") from None
    except errors.EOFError:
        raise BadSample("no-frames", f"{name}: it ends before its first frame") from None
    except errors.FFmpegError as error:
        raise BadSample(DAMAGED, f"{name}: cannot read this video: {_text(error)}") from None


def _text(error: Exception) -> str:
    """FFmpeg's own words, without the call that failed."""
    return str(getattr(error, "strerror", None) or one_line(error))


def kind_of(head: bytes) -> str:
    """The kind of a video by its first bytes; raises `BadSample` for what is no video that is read."""
    if not head:
        raise BadSample("empty", "an empty file (0 bytes)")
    if kind := container_of(head):
        return kind
    kinds = ", ".join(CONTAINERS)
    other = other_kind(head)
    try:
        image = format_of(head)
    except BadSample:
        image = None
    if image is not None and other is None:
        raise BadSample(NOT_A_VIDEO, f"an image ({image}), not a video; give it as an image")
    what = f"{other} is none of {kinds}" if other else f"its first bytes are none of {kinds}"
    raise BadSample(NOT_A_VIDEO, f"not a video of a kind that is read: {what}; convert it to MP4")


def _refuse(url: str, flags: int, options: Any) -> NoReturn:
    """What FFmpeg calls to open another file or address."""
    raise BadSample("variant", f"it names another file or address, {url!r:.80}, which is not opened")


def _container(file: BinaryIO, demuxer: str) -> InputContainer:
    av = pyav()
    options = {
        "protocol_whitelist": "none",
        "format_whitelist": ",".join(sorted(av.format.ContainerFormat(demuxer, "r").name.split(","))),
        "probesize": str(PROBE_BYTES),
        "analyzeduration": str(PROBE_MICROSECONDS),
        "max_streams": str(MAX_STREAMS),
    }
    if demuxer == "mov":
        options |= {"enable_drefs": "0", "use_absolute_path": "0"}
    # for decoders that look for the frame size; PyAV 15 frees options of late streams that it has never made
    of_streams = {} if demuxer in LATE_STREAMS else {"max_pixels": str(MAX_PIXELS)}
    return av.open(
        file,
        format=demuxer,
        container_options=options,
        options=of_streams,
        io_open=_refuse,
        metadata_errors="replace",
    )


def _stream(container: InputContainer) -> VideoStream:
    """The first video stream that is no cover picture; one thread decodes it, since workers run side by side."""
    av = pyav()
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        sound = "sound but no video" if container.streams.audio else "no video"
        raise BadSample(NO_VIDEO, f"this file has {sound}")
    stream = streams[0]
    context = stream.codec_context
    name = context.codec.canonical_name if context is not None else "unknown"
    if name not in CODECS:
        possible = ", ".join(sorted(CODECS))
        raise BadSample("variant", f"the codec {name!r:.40} is not read; possible: {possible}")
    if stream.width * stream.height > MAX_PIXELS:
        size = f"{stream.width}×{stream.height}"
        raise BadSample(
            "too-many-pixels", f"frames of {size} pixels; at most {MAX_PIXELS // 10**6} megapixels are read"
        )
    context.options = {"max_pixels": str(MAX_PIXELS)}
    context.thread_count = 1
    return stream
