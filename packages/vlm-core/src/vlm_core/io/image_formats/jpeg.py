"""Cost of decoding a JPEG file: its scans, segments and the bytes between segments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from vlm_core.io.image_formats import tiff
from vlm_core.io.image_formats.limits import MAX_METADATA, costly, variant

MAX_VISITS = 1_500_000_000
"""Coefficients that all scans of a file may visit; a decoder takes about 1.3 ns for one."""
MAX_COEFFICIENTS = 128_000_000
"""Coefficients, two bytes each, of an image in several scans: a decoder keeps all of them in memory."""
MAX_SEGMENTS, MAX_FILL = 2000, 2**16
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither an escaped 0xFF nor a restart
_SOF, _EOI, _SOS = range(0xC0, 0xD0), 0xD9, 0xDA
_TABLES = (0xC4, 0xC8, 0xCC)  # in the range of frame headers
_APP1, _EXIF = 0xE1, b"Exif\0\0"
_ALONE = (0x01, 0xD8)  # without a length
_BLOCK_OVERHEAD = 10  # a block of a scan costs about as much as so many coefficients
_VISITS_OF_BYTE = 20  # and a byte of a scan as so many; this counts if scans are repeated


class Segment(NamedTuple):
    """A marker, its body after the length, and the number of bytes of scan data before it."""

    marker: int
    body: bytes
    scanned: int


class Frame(NamedTuple):
    """Number of coefficients of each component, by its id, from a frame header."""

    coefficients: dict[int, int]


def check(data: bytes) -> None:
    """Raise `BadSample` for a JPEG file that is too costly to decode or of a rare variant."""
    frame, visits, scans, metadata, exif = None, 0, 0, 0, bytearray()
    for number, segment in enumerate(segments(data)):
        if number >= MAX_SEGMENTS:
            costly(f"a JPEG file of more than {MAX_SEGMENTS} segments")
        if segment.scanned and (scans > 1 or segment.marker != _EOI):
            visits += segment.scanned * _VISITS_OF_BYTE
            _check_visits(visits, scans)
        if segment.marker in _SOF and segment.marker not in _TABLES:
            frame = frame or _frame(segment)
        elif segment.marker == _SOS:
            scans += 1
            visits += _visits(segment.body, frame)
            _check_visits(visits, scans)
            _check_memory(frame, scans, segment.body)
        else:
            metadata += len(segment.body)
            exif += segment.body[6:] if segment.marker == _APP1 and segment.body.startswith(_EXIF) else b""
            if metadata > MAX_METADATA:
                costly(f"a JPEG file with more than {MAX_METADATA >> 20} MiB of metadata")
    tiff.check_exif(bytes(exif))  # Pillow joins its segments, and reads them when it opens the file


def segments(data: bytes) -> Iterator[Segment]:
    """All segments up to the end of the image; markers without a length are skipped."""
    at, fill, in_scan = 2, 0, False
    while match := _MARKER.search(data, at, len(data) if in_scan else at + MAX_FILL):
        marker, after = data[match.end() - 1], match.end()
        skipped = match.start() - at
        fill += 0 if in_scan else skipped
        scanned = skipped if in_scan else 0
        if marker == _EOI:
            yield Segment(marker, b"", scanned)
        if marker == _EOI or fill > MAX_FILL:
            break
        at, in_scan = after, marker == _SOS
        if marker not in _ALONE:
            at += max(2, int.from_bytes(data[after : after + 2], "big"))
            yield Segment(marker, data[after + 2 : at], scanned)
    if fill > MAX_FILL or (not match and not in_scan and len(data) - at > MAX_FILL):
        costly(f"a JPEG file with more than {MAX_FILL} bytes between its segments")


def _frame(segment: Segment) -> Frame:
    if segment.marker not in (0xC0, 0xC1, 0xC2):
        variant("arithmetic-coded, lossless or hierarchical JPEG")
    body = segment.body
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    parts = [body[i : i + 3] for i in range(6, len(body) - 2, 3)]
    most = max([(part[1] >> 4 or 1) * (part[1] & 15 or 1) for part in parts], default=1)
    shares = {part[0]: (part[1] >> 4 or 1) * (part[1] & 15 or 1) / most for part in parts}
    return Frame({name: int(share * (width + 7) * (height + 7)) for name, share in shares.items()})


def _visits(body: bytes, frame: Frame | None) -> int:
    """Number of coefficients that a scan visits: of its components, the band in its header."""
    if frame is None or len(body) < 4:
        return 0
    names = body[1 : 1 + 2 * body[0] : 2]
    first, last = body[-3], min(63, body[-2])
    band = max(1, last - first + 1) + _BLOCK_OVERHEAD
    return sum(frame.coefficients.get(name, 0) for name in names) * band // 64


def _check_visits(visits: int, scans: int) -> None:
    if visits > MAX_VISITS:
        costly(f"a JPEG file with too many or too large scans ({scans} so far) for its size")


def _check_memory(frame: Frame | None, scans: int, body: bytes) -> None:
    several = frame and (scans > 1 or body[:1] < bytes((len(frame.coefficients),)))
    if frame and several and sum(frame.coefficients.values()) > MAX_COEFFICIENTS:
        costly(f"a progressive JPEG file with more than {MAX_COEFFICIENTS // 10**6} million coefficients")
