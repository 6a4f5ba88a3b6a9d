"""Reading text and JSON lines, plain or gzipped, with errors that name file and line."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_core.errors import UserError

GZIP_MAGIC = b"\x1f\x8b"


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked if it is gzipped (told by its first bytes, not by its name)."""
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw.startswith(GZIP_MAGIC) else raw
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path}: this gzip file is damaged or cut off") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read this file: {error.strerror}") from None


def sha256(path: Path) -> str:
    """Hash of the unpacked content, so that a file and its gzipped copy agree."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def read_text(path: Path) -> str:
    """The content of a UTF-8 file."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None


@dataclass(frozen=True)
class Row:
    """One JSON object and where it stands."""

    where: str
    data: dict[str, Any]

    def text(self, key: str) -> str:
        """The string at `key`; anything else is an error."""
        value = self.data.get(key)
        if not isinstance(value, str):
            seen = "is missing" if key not in self.data else f"is {value!r:.40}, expected text"
            raise UserError(f"{self.where}: {key!r} {seen}")
        return value

    def id(self, key: str) -> str:
        """An identifier. Files write it as a number or as text; both read the same."""
        value = self.data.get(key)
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise UserError(f"{self.where}: {key!r} must be a number or text, got {value!r:.40}")
        return str(value)


def as_row(value: Any, where: str) -> Row:
    """`value` as a `Row`; only JSON objects are rows."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object, got {value!r:.40}")
    return Row(where, value)


def read_jsonl(path: Path) -> Iterator[Row]:
    """One row for each line; empty lines are passed over, an empty file is an error."""
    # not splitlines(): JSON strings may hold U+2028 and its like, which are no line ends in JSON lines
    lines = [(n, line) for n, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path}: the file is empty")
    for number, line in lines:
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not valid JSON ({error.msg}); is the file cut off?") from None
        yield as_row(value, where)


def read_json(path: Path) -> Any:
    """The value that a JSON file holds."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: not valid JSON ({error.msg}); is the file cut off?"
        ) from None


def json_rows(path: Path, key: str | None = None) -> list[Row]:
    """The objects of a JSON list, or of the list at `key` of a JSON object."""
    data = read_json(path)
    items = data.get(key) if key is not None and isinstance(data, dict) else data
    if not isinstance(items, list) or not items:
        wanted = "a JSON list" if key is None else f"a JSON object with a list {key!r}"
        raise UserError(f"{path}: expected {wanted} that is not empty")
    return [as_row(item, f"{path}: {key or 'item'} number {n}") for n, item in enumerate(items, 1)]


def json_object(path: Path) -> dict[str, Row]:
    """The objects of a JSON object, by key."""
    data = read_json(path)
    if not isinstance(data, dict) or not data:
        raise UserError(f"{path}: expected a JSON object that is not empty")
    return {key: as_row(value, f"{path}: {key}") for key, value in data.items()}
