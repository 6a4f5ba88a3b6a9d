"""Headers of the pages of a parquet file: what a column chunk decodes to is known before anything is decoded.

The footer's sizes are claims, and a dictionary of one text and a run length make a terabyte of 100 bytes. pyarrow tells
neither, so the headers (https://parquet.apache.org/docs/file-format, in Thrift's compact protocol) are read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

MAX_PAGES = 100_000
"""Pages of one column chunk."""
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_DELTA_BYTE_ARRAY = 7
_LEVELS = 4
"""Bytes of a value's levels while it is decoded: how deep it is, and where lists begin."""


class Content(NamedTuple):
    """What pages hold: bytes without compression, values, bytes of dictionaries, and those of the largest page in which
    values share their beginnings (`DELTA_BYTE_ARRAY`)."""

    size: int
    values: int
    dictionary: int
    shared: int


class _Thrift:
    """Reads one struct of Thrift's compact protocol; whatever is no such struct is a `ValueError`."""

    def __init__(self, data: memoryview, at: int) -> None:
        self.data, self.at = data, at

    def byte(self) -> int:
        if self.at >= len(self.data):
            raise ValueError("a page header breaks off")
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a number in a page header has no end")

    def integer(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def struct(self, levels: int = 8) -> dict[int, Any]:
        """Fields by id; texts and lists are passed over."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self.byte():
            number = number + (head >> 4) if head >> 4 else self.integer()
            fields[number] = self.value(head & 15, levels)
        return fields

    def value(self, kind: int, levels: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind in (4, 5, 6):
            return self.integer()
        if kind == 12 and levels:
            return self.struct(levels - 1)
        if kind not in (3, 7, 8):
            raise ValueError(f"a page header holds a field of kind {kind}")
        size = {3: 1, 7: 8}.get(kind) or self.varint()
        self.at += size
        return None


def _headers(data: memoryview) -> Iterator[tuple[dict[int, Any], int, int]]:
    """(header, bytes in the file, bytes without compression) of each page of a column chunk."""
    at = 0
    for _ in range(MAX_PAGES):
        if at >= len(data):
            return
        thrift = _Thrift(data, at)
        header = thrift.struct()
        stored, size = header.get(3), header.get(2)
        if type(stored) is not int or type(size) is not int or stored < 0 or size < 0:
            raise ValueError("a page without a size")
        yield header, stored, size
        at = thrift.at + stored
    raise ValueError(f"more than {MAX_PAGES} pages in one column")


def content(chunk: memoryview) -> Content:
    """What a column chunk holds, by the headers of its pages; raises `ValueError` for what is none."""
    total = values = dictionary = shared = 0
    for header, _, size in _headers(chunk):
        total += size
        kind = header.get(1)
        if kind == _DICTIONARY:
            dictionary += size
            continue
        page = header.get({_DATA: 5, _DATA_V2: 8}.get(kind, 0)) if isinstance(kind, int) else None
        if page is None:
            continue  # an index page, which nothing reads
        count = page.get(1) if isinstance(page, dict) else None
        if type(count) is not int or count < 0:
            raise ValueError("a page without a number of values")
        values += count
        if page.get(2 if kind == _DATA else 4) == _DELTA_BYTE_ARRAY:
            shared = max(shared, size)
    return Content(total, values, dictionary, shared)


def decoded(pages: Content, width: int) -> int:
    """Bytes in memory of a chunk whose values have `width` bytes beside what the pages hold, repeated values aside."""
    return pages.size + pages.values * (width + _LEVELS)
