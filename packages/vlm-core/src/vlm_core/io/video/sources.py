"""What a row's images are: paths, images inside other files, and videos with the frames that are read of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from vlm_core.errors import BadSample, UserError
from vlm_core.io.files import open_row_file, read_file, read_samples, with_retries

MAX_FRAMES = 4096
"""Frames that are read of one video, at most."""
MAX_FPS = 1000.0
DEFAULT_MAX_FRAMES = 64
"""Frames of a video that is sampled by `fps`, unless `max_frames` says otherwise."""
WHOLE_FILE = 256 * 2**20
"""Bytes of a video that its digest covers completely."""
SAMPLES, SAMPLE_BYTES = 256, 65536


@dataclass(frozen=True)
class StoredImage:
    """An image without its own file; `read()` returns the bytes of an image file and may raise `BadSample`.

    `name` identifies the image in messages and caches: images with equal names are the same. `read` must be picklable
    for worker processes: a `partial` of a module's function, or a bound method. A video's bytes are stored alike.
    """

    name: str
    read: Callable[[], bytes] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Sampling:
    """The frames that are read of a video: `frames`, evenly spaced, or `fps` a second but at most `max_frames`.

    Raises `UserError` unless exactly one of `frames` and `fps` is given, each within its limits.
    """

    frames: int | None = None
    fps: float | None = None
    max_frames: int | None = None

    def __post_init__(self) -> None:
        if (self.frames is None) == (self.fps is None):
            raise UserError("a video is sampled by frames or by fps: give one of them")
        if self.frames is not None and self.max_frames is not None:
            raise UserError("max_frames is for fps; frames says how many frames are read")
        for name, count in (("frames", self.frames), ("max_frames", self.max_frames)):
            if count is not None and not (type(count) is int and 1 <= count <= MAX_FRAMES):
                raise UserError(f"{name} {count!r:.40}: expected a whole number from 1 to {MAX_FRAMES}")
        fps = self.fps
        if fps is not None and not (
            isinstance(fps, int | float) and not isinstance(fps, bool) and 0 < fps <= MAX_FPS
        ):
            raise UserError(f"fps {fps!r:.40}: expected a number above 0, at most {MAX_FPS:g}")

    def __str__(self) -> str:
        if self.fps is None:
            return f"frames {self.frames}"
        return f"fps {str(self.fps).removesuffix('.0')}, at most {self.limit} frames"

    @property
    def limit(self) -> int:
        """The most frames that a video has with this sampling."""
        return self.frames or self.max_frames or DEFAULT_MAX_FRAMES


DEFAULT_SAMPLING = Sampling(frames=8)
"""Where neither the row nor the spec says how a video is sampled."""
FileSource = str | Path | StoredImage
"""A file: a path, or bytes stored in another file."""


@dataclass(frozen=True)
class VideoSource:
    """A video of a row. `sampling` is that of the row; None: that of the spec."""

    file: FileSource
    sampling: Sampling | None = None

    @property
    def name(self) -> str:
        """The name of the file, and the row's sampling: names of equal content are equal."""
        name = image_name(self.file)
        return name if self.sampling is None else f"{name} ({self.sampling})"


ImageSource = str | Path | StoredImage | VideoSource
"""An image of a row: a path, an image stored in another file, or a video."""


def image_name(source: ImageSource) -> str:
    """The name that identifies an image or video in messages and caches."""
    return str(source) if isinstance(source, str | Path) else source.name


def image_bytes(source: ImageSource) -> bytes:
    """The bytes of the image file, undecoded; raises `BadSample` as `read_file` does."""
    file = file_of(source)
    return file.read() if isinstance(file, StoredImage) else read_file(file)


def file_of(source: ImageSource) -> FileSource:
    """The file of an image or video."""
    return source.file if isinstance(source, VideoSource) else source


def in_memory(source: ImageSource) -> ImageSource:
    """An image whose file is read now, once for its size and its pixels; a video unchanged. Raises as `image_bytes`."""
    if isinstance(source, VideoSource):
        return source
    data = image_bytes(source)
    return StoredImage(image_name(source), lambda: data)


def file_digest(source: FileSource) -> str:
    """sha256 of a file's bytes; of one larger than `WHOLE_FILE`, of its size and samples. Raises as `image_bytes`."""
    if isinstance(source, StoredImage):
        return hashlib.sha256(source.read()).hexdigest()
    try:
        return with_retries(str(source), lambda: _digest_of(source))
    except OSError as error:
        raise BadSample("unreadable", f"{source}: cannot be read: {error.strerror or error}") from None


def _digest_of(source: str | Path) -> str:
    with open_row_file(source) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= WHOLE_FILE:
            return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]
    length, samples = read_samples(source, SAMPLES, SAMPLE_BYTES)
    return hashlib.sha256(b"".join((b"%d:" % length, *samples))).hexdigest()
