"""Checks of MP4 and MOV files before they are opened: sizes of tables, and frames that are in other files.

A table may say in a few bytes that a billion samples follow; FFmpeg allocates them. ISO/IEC 14496-12 names the boxes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from vlm_core.errors import BadSample
from vlm_core.io.image_formats.limits import COSTLY, VARIANT

MAX_SAMPLES = 8_000_000
"""Samples of all tracks that the tables declare: 10 hours of 60 frames a second with sound have 4 million."""
MAX_BOXES = 200_000
MAX_EDITS = 100
_INNER = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"dinf", b"edts", b"mvex", b"moof", b"traf"}
_DEPTH = 6


class _Box(NamedTuple):
    kind: bytes
    start: int
    end: int


class _Walk:
    """The boxes of a file; the samples that their tables declare are added up."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size
        self.boxes = self.samples = 0

    def check(self, start: int, end: int, depth: int = 0) -> None:
        for box in self._boxes(start, end):
            if box.kind in _INNER and depth < _DEPTH:
                self.check(box.start, box.end, depth + 1)
            elif depth:
                self._check_leaf(box)

    def _boxes(self, start: int, end: int) -> Iterator[_Box]:
        while start + 8 <= end:
            self.boxes += 1
            if self.boxes > MAX_BOXES:
                raise BadSample(COSTLY, f"more than {MAX_BOXES} boxes: it costs too much to read; remux it")
            size, kind = struct.unpack(">I4s", self._read(start, 8))
            head = 8
            if size == 1 and start + 16 <= end:
                (size,), head = struct.unpack(">Q", self._read(start + 8, 8)), 16
            stop = end if size == 0 else min(end, start + size)
            if stop < start + head:  # damaged; FFmpeg reads no further, either
                return
            yield _Box(kind, start + head, stop)
            start = stop

    def _check_leaf(self, box: _Box) -> None:
        if box.kind in (b"stsz", b"stz2"):
            self._add(self._count(box, 8))
        elif box.kind == b"trun":
            self._add(self._count(box, 4))
        elif box.kind == b"elst" and self._count(box, 4) > MAX_EDITS:
            raise BadSample(COSTLY, f"more than {MAX_EDITS} edits of a track: it costs too much; remux it")
        elif box.kind == b"cmov":
            raise BadSample(VARIANT, "an MP4 or MOV file with a compressed header is not read; remux it")
        elif box.kind == b"dref":
            for entry in self._boxes(box.start + 8, box.end):
                if not self._count(entry, 0) & 1:
                    raise BadSample(VARIANT, "its frames are in another file, which is not opened")

    def _add(self, count: int) -> None:
        self.samples += count
        if self.samples > MAX_SAMPLES:
            raise BadSample(
                COSTLY, f"it declares {self.samples} samples; at most {MAX_SAMPLES} are read: cut it in parts"
            )

    def _count(self, box: _Box, offset: int) -> int:
        """The big-endian 32-bit number at an offset in a box; 0 past its end."""
        if box.start + offset + 4 > box.end:
            return 0
        return int.from_bytes(self._read(box.start + offset, 4), "big")

    def _read(self, start: int, count: int) -> bytes:
        self.file.seek(start)
        data = self.file.read(count)
        if len(data) < count:
            raise BadSample("truncated", "truncated while it was read")
        return data


def check_mp4(file: BinaryIO, size: int) -> None:
    """Raise `BadSample` for tables that cost too much, compressed headers, and frames in other files."""
    _Walk(file, size).check(0, size)
