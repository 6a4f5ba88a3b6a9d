"""Reads the page headers of a parquet file, to know the decoded size of a column chunk before decoding it.

The sizes in the footer can't be trusted, and a dictionary with run lengths expands 100 bytes to a terabyte. pyarrow
does not expose page headers, so they (https://parquet.apache.org/docs/file-format, Thrift's compact protocol) are
parsed here.
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
"""Bytes of a value's definition and repetition levels during decoding."""


class PageSizes(NamedTuple):
    """Totals over the pages of a column chunk: uncompressed bytes, values, bytes of dictionaries.

    `delta_page` is the size of the largest page with the encoding `DELTA_BYTE_ARRAY`, whose values share prefixes.
    """

    size: int
    values: int
    dictionary: int
    delta_page: int


class Chunk(NamedTuple):
    """The byte range of a column chunk in the file."""

    start: int
    end: int


def chunks(footer: memoryview) -> list[list[Chunk]]:
    """The column chunks of each row group; raises `ValueError` for an invalid footer.

    pyarrow's own access to them aborts the process if other metadata of a column is invalid.
    """
    groups = Thrift(footer).struct().get(4, [])
    if not isinstance(groups, list) or not all(
        isinstance(g, dict) and isinstance(g.get(1), list) for g in groups
    ):
        raise ValueError("a footer without row groups")
    return [[_chunk(column) for column in group[1]] for group in groups]


def _chunk(column: Any) -> Chunk:
    metadata = column.get(3) if isinstance(column, dict) else None
    if not isinstance(metadata, dict):
        raise ValueError("a footer has a column without metadata")
    size, start, dictionary = metadata.get(7), metadata.get(9), metadata.get(11) or 0
    if type(size) is not int or type(start) is not int or type(dictionary) is not int:
        raise ValueError("a footer has a column without size and offset")
    if 0 < dictionary < start:
        start = dictionary
    return Chunk(start, start + size)


def _headers(data: memoryview) -> Iterator[tuple[dict[int, Any], int, int]]:
    """(header, compressed bytes, uncompressed bytes) of each page of a column chunk."""
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


def page_sizes(chunk: memoryview) -> PageSizes:
    """The sizes of a column chunk, from its page headers; raises `ValueError` for an invalid chunk."""
    total = values = dictionary = delta_page = 0
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
            delta_page = max(delta_page, size)
    return PageSizes(total, values, dictionary, delta_page)


def decoded_bytes(pages: PageSizes, width: int) -> int:
    """Bytes in memory of a decoded chunk with `width` bytes per value, without repeated dictionary entries."""
    return pages.size + pages.values * (width + _LEVELS)
