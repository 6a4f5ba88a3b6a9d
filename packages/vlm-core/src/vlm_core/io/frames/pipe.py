"""Frames from a pipe: concatenated images, with the times at which they come or at a rate."""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Iterator

from PIL import Image

from vlm_core.io.frames.image_stream import ImageStream
from vlm_core.io.frames.source import FrameSource
from vlm_core.io.images import decode_image

CHUNK = 2**18
NAME = "standard input"
POLL = 0.1
"""Seconds after which a closed reader notices."""
log = logging.getLogger(__name__)


class PipeReader:
    """Images from a file descriptor; a warning says once that no data has come for `stall` seconds."""

    def __init__(self, descriptor: int, stall: float) -> None:
        self.descriptor, self.stall = descriptor, stall
        self.images = ImageStream(self.read)
        self._closed = False

    def read(self) -> bytes:
        """The next bytes; b"" at the end, and after `close`."""
        begin, warned = time.monotonic(), False
        while not self._closed and not self._ready():
            if not warned and time.monotonic() - begin >= self.stall:
                log.warning("%s: no data for %g s, %s", NAME, self.stall, self._place())
                warned = True
        if warned and not self._closed:
            log.info("%s: data comes again", NAME)
        return b"" if self._closed else os.read(self.descriptor, CHUNK)

    def _ready(self) -> bool:
        if os.name != "posix":  # elsewhere only sockets can be waited for
            return True
        return bool(select.select([self.descriptor], [], [], POLL)[0])

    def _place(self) -> str:
        number = self.images.frames + 1
        return f"in the middle of frame {number}" if self.images.in_frame else f"before frame {number}"

    def close(self) -> None:
        """Let `read` end."""
        self._closed = True


def pipe_frames(
    descriptor: int, rate: float | None = None, *, live: bool = True, stall: float = 10.0
) -> FrameSource[bytes]:
    """Concatenated JPEG or PNG images from a file descriptor.

    With `rate`, frame i is at i/rate seconds and none is dropped. Without it, times are those of arrival after the
    first frame, and frames that are not read in time are dropped if the source is `live`.
    """
    reader = PipeReader(descriptor, stall)

    def items() -> Iterator[tuple[float, bytes]]:
        begin = None
        for number, data in enumerate(reader.images):
            now = time.monotonic()
            begin = now if begin is None else begin
            yield (now - begin if rate is None else number / rate), data

    return FrameSource(NAME, items(), _load, live and rate is None, reader.close)


def _load(data: bytes) -> Image.Image:
    return decode_image(data, "a frame of the stream")
