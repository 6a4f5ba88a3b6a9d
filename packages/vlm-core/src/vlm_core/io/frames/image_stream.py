"""Concatenated JPEG and PNG images, as MJPEG streams and `ffmpeg -f image2pipe` are, cut into images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from vlm_core.errors import UserError

MAX_FRAME = 32 * 2**20
"""Bytes of a frame; and of what is between two, such as the headers of multipart MJPEG."""
MAX_GAP = 2**20
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_BEGIN = re.compile(re.escape(JPEG) + b"|" + re.escape(PNG))
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither an escaped 0xFF nor a restart
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_ALONE = (0x01,)  # without a length


class _End(Exception):
    """The stream has ended."""


class ImageStream:
    """Cuts what `read` returns, b"" at the end, into the bytes of images; `frames` counts them.

    A frame whose beginning is followed by another frame's is yielded as it is: decoding shows that it is damaged.
    """

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read, self._buffer = read, bytearray()
        self.frames = 0

    @property
    def in_frame(self) -> bool:
        """Whether the bytes so far end in the middle of a frame."""
        return self._buffer.startswith((JPEG, PNG))

    def __iter__(self) -> Iterator[bytes]:
        """Raises `UserError` if the stream ends in the middle of a frame, a frame is too large or there is none."""
        try:
            while True:
                self._skip_to_frame()
                length = self._jpeg_length() if self._buffer.startswith(JPEG) else self._png_length()
                frame = bytes(self._buffer[:length])
                del self._buffer[:length]
                self.frames += 1
                yield frame
        except _End:
            if self.in_frame:
                raise UserError(
                    f"the stream ended in the middle of frame {self.frames + 1}, after {len(self._buffer)} of its "
                    "bytes; this frame is left out"
                ) from None
            if not self.frames and self._buffer:
                raise UserError("no JPEG or PNG image in the stream") from None

    def _more(self) -> None:
        """Read on; raises `_End` at the end of the stream."""
        if len(self._buffer) > MAX_FRAME:
            raise UserError(
                f"frame {self.frames + 1} has more than {MAX_FRAME >> 20} MiB, or its end is damaged; reading stops"
            )
        data = self._read()
        if not data:
            raise _End
        self._buffer += data

    def _skip_to_frame(self) -> None:
        while not (begin := _BEGIN.search(self._buffer)):
            if len(self._buffer) > MAX_GAP:
                raise UserError(
                    f"no JPEG or PNG image in {MAX_GAP >> 20} MiB after frame {self.frames}; expected concatenated "
                    "JPEG or PNG images (ffmpeg -f image2pipe -c:v mjpeg -)"
                )
            self._more()
        del self._buffer[: begin.start()]

    def _jpeg_length(self) -> int:
        """Bytes up to the end of the image at the beginning of the buffer, or up to the next one's beginning."""
        at = 2
        while True:
            match = _MARKER.search(self._buffer, at)
            if match is None:
                at = max(at, len(self._buffer) - 1)
                self._more()
                continue
            marker, at = match[0][1], match.end()
            if marker == _EOI:
                return at
            if marker == _SOI:
                return match.start()
            if marker not in _ALONE:
                at += max(2, int.from_bytes(self._bytes(at, 2), "big"))

    def _png_length(self) -> int:
        at = len(PNG)
        while True:
            head = self._bytes(at, 8)
            at += 12 + int.from_bytes(head[:4], "big")
            if at > MAX_FRAME:  # a damaged length: what follows is searched for the next image
                return len(PNG)
            if head[4:] == b"IEND":
                self._bytes(at - 4, 4)
                return at

    def _bytes(self, at: int, count: int) -> bytes:
        while len(self._buffer) < at + count:
            self._more()
        return bytes(self._buffer[at : at + count])
