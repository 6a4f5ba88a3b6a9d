"""Cost of decoding the first image of a TIFF file: its tags, strips or tiles, and compression."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Literal, NamedTuple

from vlm_core.errors import BadSample
from vlm_core.io.image_formats import deflate
from vlm_core.io.image_formats.limits import costly, variant

MAX_TAGS, MAX_VALUES = 4096, 1_000_000
MAX_TILE = 16_000_000
_CHUNK = 2**16
MAX_JPEG = 14_000_000
"""Pixels of a TIFF with JPEG compression: libtiff allows each strip 100 scans."""
_COMPRESSIONS = {
    1: "none",
    2: "CCITT",
    3: "CCITT",
    4: "CCITT",
    5: "LZW",
    7: "JPEG",
    8: "Deflate",
    32773: "PackBits",
    32946: "Deflate",
}
_SIZES = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8,
}  # fmt: skip
"""Bytes of a value, by the number of its type."""
_INTEGERS = (1, 3, 4, 13, 16)
_BYTES = (1, 2, 6, 7)
_WIDTH, _LENGTH, _COMPRESSION, _SAMPLES, _PLANES = 256, 257, 259, 277, 284
_OFFSETS, _ROWS, _BYTE_COUNTS = 273, 278, 279
_TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_BYTE_COUNTS = 322, 323, 324, 325
_STRIP_TAGS = (_WIDTH, _LENGTH, _COMPRESSION, _SAMPLES, _PLANES, _OFFSETS, _ROWS, _BYTE_COUNTS)
_TILE_TAGS = (_TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_BYTE_COUNTS)
_READ = frozenset((*_STRIP_TAGS, *_TILE_TAGS))
_SLACK, _EXIF = 2**16, b"Exif\0\0"


class Entry(NamedTuple):
    """An entry of a directory: the type of its values, and their bytes."""

    kind: int
    data: bytes

    def integers(self, order: Literal["big", "little"]) -> list[int]:
        size = _SIZES[self.kind]
        if self.kind not in _INTEGERS:
            return []
        return [int.from_bytes(self.data[i : i + size], order) for i in range(0, len(self.data), size)]


class Directory:
    """The first directory of a TIFF file, or of EXIF, each tag once, as Pillow reads it.

    Raises `BadSample` for too many tags, and for values that overlap: a decoder would copy each of them.
    """

    def __init__(self, data: bytes, max_tags: int = MAX_TAGS) -> None:
        self.max_tags = max_tags
        self.order: Literal["big", "little"] = "big" if data[:2] == b"MM" else "little"
        self.big = 43 in data[2:4]
        self.entries = dict(reversed(list(self._entries(data))))  # the first of equal tags counts

    def _entries(self, data: bytes) -> Iterator[tuple[int, Entry]]:
        def number(at: int, size: int) -> int:
            return int.from_bytes(data[at : at + size], self.order)

        word, entry = (8, 20) if self.big else (4, 12)
        at = number(8, 8) if self.big else number(4, 4)
        head = 8 if self.big else 2
        tags, taken = number(at, head), 0
        if tags > self.max_tags:
            costly(f"a TIFF file of {tags} tags")
        for start in range(at + head, at + head + tags * entry, entry):
            kind, count = number(start + 2, 2), number(start + 4, word)
            size = count * _SIZES.get(kind, 0)
            if kind not in _BYTES and count > MAX_VALUES:
                costly(f"a TIFF file with {count} values in a tag")
            place = start + 4 + word
            if size > word:
                place = number(place, word)
            if not size or place + size > len(data):
                continue
            taken += size
            if taken > len(data) + _SLACK:
                costly("a TIFF file, or EXIF, whose tags have more bytes than it")
            if (tag := number(start, 2)) in _READ:
                yield tag, Entry(kind, data[place : place + min(size, 8 * MAX_VALUES)])

    def integers(self, tag: int) -> list[int]:
        """The integers of a tag; empty if it is missing or has another type."""
        return self.entries[tag].integers(self.order) if tag in self.entries else []

    def integer(self, tag: int, default: int) -> int:
        return (self.integers(tag) or [default])[0]


def check_exif(data: bytes) -> None:
    """Raise `BadSample` for EXIF with overlapping values: a decoder would copy each of them."""
    while data.startswith(_EXIF):
        data = data[len(_EXIF) :]
    Directory(data, max_tags=2**16)


def check(data: bytes) -> None:
    """Raise `BadSample` for a TIFF file that is too costly to decode or has a rare compression."""
    tags = Directory(data)
    compression = tags.integer(_COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        possible = ", ".join(dict.fromkeys(_COMPRESSIONS.values()))
        variant(f"TIFF with compression {compression} (none of {possible})")
    width, height = tags.integer(_WIDTH, 0), tags.integer(_LENGTH, 0)
    if not width or not height:
        raise BadSample("damaged", "a TIFF file without width and height")
    if compression == 7 and width * height > MAX_JPEG:
        costly(f"a TIFF file with JPEG inside and more than {MAX_JPEG // 10**6} megapixels")
    tiled = _TILE_OFFSETS in tags.entries
    count, area = (_tiles if tiled else _strips)(tags, width, height)
    planes = tags.integer(_SAMPLES, 1) if tags.integer(_PLANES, 1) == 2 else 1
    if len(tags.integers(_TILE_OFFSETS if tiled else _OFFSETS)) > count * planes + 8:
        costly(f"a TIFF file with more strips or tiles than its {count * planes}")
    if compression != 1:
        _check_bytes(tags.integers(_TILE_BYTE_COUNTS if tiled else _BYTE_COUNTS), data)
    if compression in (8, 32946):
        _check_deflate(tags, data, tiled, area)


def _strips(tags: Directory, width: int, height: int) -> tuple[int, int]:
    """Number of strips, and pixels of one."""
    rows = min(tags.integer(_ROWS, height) or height, height)
    return ceil(height / rows), rows * width


def _tiles(tags: Directory, width: int, height: int) -> tuple[int, int]:
    """Number of tiles, and pixels of one."""
    across, down = tags.integer(_TILE_WIDTH, 0), tags.integer(_TILE_LENGTH, 0)
    if not across or not down:
        raise BadSample("damaged", "a TIFF file of tiles without their width and height")
    tiles, area = ceil(width / across) * ceil(height / down), across * down
    if area > MAX_TILE or tiles * area > 4 * width * height + MAX_TILE or tiles > MAX_VALUES:
        costly(f"a TIFF file of {width}×{height} pixels in tiles of {across}×{down}")
    return tiles, area


def _check_bytes(counts: list[int], data: bytes) -> None:
    """Refuse overlapping strips: each of them would be decoded."""
    if not counts:
        variant("TIFF that doesn't say how many bytes its strips or tiles have")
    if sum(counts) > len(data):
        costly("a TIFF file whose strips or tiles have more bytes than the file")


def _check_deflate(tags: Directory, data: bytes, tiled: bool, area: int) -> None:
    names = (_TILE_OFFSETS, _TILE_BYTE_COUNTS) if tiled else (_OFFSETS, _BYTE_COUNTS)
    places = list(zip(*(tags.integers(name) for name in names), strict=False))
    if sum(count for _, count in places) > deflate.FREE:
        deflate.check("a TIFF file", (_chunks(data, *place) for place in places), 8 * area)


def _chunks(data: bytes, offset: int, count: int) -> Iterator[memoryview]:
    end = min(offset + count, len(data))
    return (memoryview(data)[at : min(at + _CHUNK, end)] for at in range(offset, end, _CHUNK))
