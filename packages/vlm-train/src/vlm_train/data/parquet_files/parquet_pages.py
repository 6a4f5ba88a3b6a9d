"""Headers of the pages of a parquet file: what a column chunk decodes to is known before anything is decoded.

The footer's sizes are claims, and a dictionary of one text and a run length make a terabyte of 100 bytes. pyarrow tells
neither, so the headers (https://parquet.apache.org/docs/file-format, in Thrift's compact protocol) are read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from vlm_train.data.parquet_files.parquet_thrift import Thrift

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


class Chunk(NamedTuple):
    """Where the pages of a column stand in a file."""

    start: int
    end: int


def chunks(footer: memoryview) -> list[list[Chunk]]:
    """The column chunks of each row group; raises `ValueError` for what is no footer.

    pyarrow tells them, too, but ends the process where what else a footer says of a column is wrong.
    """
    groups = Thrift(footer).struct().get(4, [])
    if not isinstance(groups, list) or not all(
        isinstance(g, dict) and isinstance(g.get(1), list) for g in groups
    ):
        raise ValueError("a footer without row groups")
    return [[_chunk(column) for column in group[1]] for group in groups]


def _chunk(column: Any) -> Chunk:
    facts = column.get(3) if isinstance(column, dict) else None
    if not isinstance(facts, dict):
        raise ValueError("a footer has a column without a place")
    size, start, dictionary = facts.get(7), facts.get(9), facts.get(11) or 0
    if type(size) is not int or type(start) is not int or type(dictionary) is not int:
        raise ValueError("a footer has a column without a place")
    if 0 < dictionary < start:
        start = dictionary
    return Chunk(start, start + size)


def _headers(data: memoryview) -> Iterator[tuple[dict[int, Any], int, int]]:
    """(header, bytes in the file, bytes without compression) of each page of a column chunk."""
    at = 0
    for _ in range(MAX_PAGES):
        if at >= len(data):
            return
        thrift = Thrift(data, at)
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
