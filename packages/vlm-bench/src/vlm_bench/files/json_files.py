"""Reading text and JSON, plain or gzipped, with errors that name file and line."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_bench.files.json_object import Row, as_row
from vlm_core.errors import UserError
from vlm_core.io.files import decode_text, open_regular
from vlm_core.io.strict_json import parse_strict, parse_strict_line

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

GZIP_MAGIC = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"
MAX_BYTES = 2**30
"""Limit of a file's unpacked size; the largest benchmark file has 390 MB."""
MAX_RATIO, ANY_RATIO_BYTES = 64, 16 * 2**20
"""Limit of the compression ratio of files that unpack to more than `ANY_RATIO_BYTES`; JSON has 10 to 20."""
MAX_VALUES, MAX_ROWS = 25_000_000, 2_000_000
"""Limits of values in a JSON file, at 60 bytes or more each, and of rows of JSON lines; known files have half of it."""
_CHUNK = 2**20
_BUFFER = 2**16


class _Bounded(io.RawIOBase):
    """Reads from `file` and raises `UserError` beyond `limit` bytes: a few kilobytes of gzip can unpack to any size."""

    def __init__(self, file: Any, path: Path, limit: int) -> None:
        self.file, self.path, self.limit, self.total = file, path, limit, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        count = self.file.readinto(buffer)
        self.total += count
        if self.total > self.limit:
            raise UserError(
                f"{self.path}: more than {self.limit} bytes when unpacked; no benchmark has such a file"
            )
        return count


@contextmanager
def opened(path: Path) -> Iterator[BufferedIOBase]:
    """A regular file's bytes, unpacked if it is gzipped (recognised by its first bytes, not by its name)."""
    if not path.exists():
        raise UserError(f"{path}: cannot read this file: {os.strerror(errno.ENOENT)}")
    with open_regular(path) as raw:
        packed = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        raw.seek(0)
        ratio = max(ANY_RATIO_BYTES, MAX_RATIO * os.fstat(raw.fileno()).st_size)
        limit = min(MAX_BYTES, ratio) if packed else MAX_BYTES
        try:
            with gzip.GzipFile(fileobj=raw) if packed else raw as file:
                yield io.BufferedReader(_Bounded(file, path, limit), _BUFFER)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise UserError(f"{path}: this gzip file is damaged or cut off") from None


def unpacked(path: Path) -> Any:
    """A temporary file, with its path as `name`, that holds a gzipped file's content; None for any other file."""
    with open_regular(path) as raw:
        if raw.read(len(GZIP_MAGIC)) != GZIP_MAGIC:
            return None
    copy = tempfile.NamedTemporaryFile(prefix=path.stem)  # noqa: SIM115, it lives as long as its owner
    with opened(path) as file:
        shutil.copyfileobj(file, copy)
    copy.flush()
    return copy


def read_bytes(path: Path) -> bytes:
    """The unpacked content of a file."""
    with opened(path) as file:
        return file.read()


def sha256(path: Path) -> str:
    """sha256 of the unpacked content, without a byte order mark and with LF line ends.

    A file, its gzipped copy and a copy with CRLF have the same hash; for a plain LF file it equals `sha256sum`.
    """
    total, pending = hashlib.sha256(), b""
    with opened(path) as file:
        first = file.read(len(BOM))
        pending = b"" if first == BOM else first
        while chunk := file.read(_CHUNK):
            pending = (pending + chunk).replace(b"\r\n", b"\n")
            total.update(pending[:-1])
            pending = pending[-1:]  # may be the first half of "\r\n"
    total.update(pending.replace(b"\r\n", b"\n"))
    return total.hexdigest()


def read_text(path: Path) -> str:
    """The content of a UTF-8 file."""
    return decode_text(read_bytes(path), path)


def read_jsonl(path: Path) -> Iterator[Row]:
    """One row per line; empty lines are skipped, an empty file is an error."""
    count, name = 0, str(path)
    for number, line in enumerate(_lines(read_text(path)), 1):
        if line and not line.isspace():
            yield as_row(_parse_line(line, path, number), f"{name}:{number}")
            count += 1
        if count > MAX_ROWS:
            raise UserError(f"{path}: more than {MAX_ROWS} rows; no benchmark has such a file")
    if not count:
        raise UserError(f"{path}: the file is empty")


def _lines(text: str) -> Iterator[str]:
    """Lines without their ends. str.splitlines would also split at U+2028 and others, which JSON strings may hold."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def read_json(path: Path) -> Any:
    """The value that a JSON file holds."""
    return parse_json(read_text(path), path)


def parse_json(text: str, path: Path) -> Any:
    """The value of a file's JSON text, as `parse_strict` reads it."""
    _refuse_many_values(text, path)
    return parse_strict(text, path)


def _parse_line(line: str, path: Path, number: int) -> Any:
    _refuse_many_values(line, path)
    return parse_strict_line(line, path, number)


def _refuse_many_values(text: str, path: Path) -> None:
    if len(text) > MAX_VALUES and (count := sum(map(text.count, ",[{"))) > MAX_VALUES:
        raise UserError(f"{path}: about {count} values; at most {MAX_VALUES} are read")


def json_rows(path: Path, key: str | None = None) -> list[Row]:
    """The objects of a JSON list, or of the list at `key` of a JSON object."""
    data = read_json(path)
    items = data.get(key) if key is not None and isinstance(data, dict) else data
    if not isinstance(items, list) or not items:
        wanted = "a JSON list" if key is None else f"a JSON object with a list {key!r}"
        keys = (
            f"; its keys are {', '.join(map(str, data))}"
            if isinstance(data, dict) and key not in data
            else ""
        )
        raise UserError(f"{path}: expected {wanted} that is not empty{keys[:200]}")
    place = f"{path}: {key or 'item'} number"
    return [as_row(item, f"{place} {n}") for n, item in enumerate(items, 1)]


def json_object(path: Path) -> dict[str, Row]:
    """The objects of a JSON object, by key."""
    data = read_json(path)
    if not isinstance(data, dict) or not data:
        raise UserError(f"{path}: expected a JSON object that is not empty")
    return {key: as_row(value, f"{path}: {key}") for key, value in data.items()}
