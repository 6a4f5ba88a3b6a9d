"""Items of a large JSON list or of JSON lines, one at a time, with where their bytes stand in the file."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from vlm_core.errors import BadSample, UserError
from vlm_core.files import RepeatedKeyError, distinct

CHUNK = 2**22
MAX_ROW = 2**26
_SPACE = re.compile(r"[ \t\r\n]*")
_ENDS = (*" \t\r\n,]:}",)


def _advice(error: Exception) -> str:
    return "; save the file as UTF-8" if isinstance(error, UnicodeDecodeError) else ""


_DECODER, _STRICT = json.JSONDecoder(), json.JSONDecoder(object_pairs_hook=distinct)


def _decode(text: str, at: int) -> tuple[Any, int]:
    """The value that begins at a place, or `RepeatedKeyError`, and where it ends."""
    try:
        return _STRICT.raw_decode(text, at)
    except RepeatedKeyError as error:
        return error, _DECODER.raw_decode(text, at)[1]


def loads(data: bytes, where: str) -> Any:
    """Parse one row, without a byte order mark; whatever is wrong with it is a `BadSample`."""
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise BadSample("json", f"{where}: not valid JSON: {error}{_advice(error)}") from None


def rows_of_file(file: BinaryIO, path: Path) -> Iterator[tuple[int, int, Any]]:
    """(start, size, value) of each row; the content, not the name, decides between a list and JSON lines.

    JSON lines are more than one line, of which the first is a value by itself; anything else is read as a list.
    In a `.jsonl` file only what begins as a list is none of them: one bad line there is one bad row.
    """
    first = file.readline(MAX_ROW)
    while first and not _bare(first):
        first = file.readline(MAX_ROW)
    more = any(map(_bare, iter(partial(file.read, CHUNK), b"")))
    file.seek(0)
    if path.suffix == ".jsonl" and not _bare(first).startswith(b"["):
        return line_rows(file, path)
    lines = more and len(first) < MAX_ROW and _is_json(first)
    return (line_rows if lines else list_rows)(file, path)


def _bare(line: bytes) -> bytes:
    return line.strip().removeprefix(codecs.BOM_UTF8).strip()


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return True


def line_rows(file: BinaryIO, path: Path) -> Iterator[tuple[int, int, Any]]:
    """(start, size, value) of each line that isn't blank; value is a `BadSample` where it can't be parsed."""
    start = number = 0
    while line := file.readline(MAX_ROW):
        number += 1
        if len(line) == MAX_ROW:
            raise UserError(f"{path}, line {number}: longer than {MAX_ROW} bytes; these are no rows")
        if _bare(line):
            try:
                value = loads(line, f"{path}, line {number}")
            except BadSample as error:
                value = error
            yield start, len(line), value
        start += len(line)


class _Window:
    """A stretch of the file as text, with the byte at which its rest stands."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.text, self.at, self.byte = file, "", 0, 0
        self.decode = codecs.getincrementaldecoder("utf-8")()

    def more(self) -> bool:
        """Read on; False at the end. A rest that grows is read in ever larger pieces."""
        rest = self.text[self.at :]
        data = self.file.read(max(CHUNK, len(rest)))
        self.text, self.at = rest + self.decode.decode(data, final=not data), 0
        return bool(data)

    def move(self, end: int) -> None:
        self.byte += len(self.text[self.at : end].encode())
        self.at = end

    def skip_mark(self) -> None:
        """Skip a byte order mark at the beginning of the file."""
        self.more()
        self.move(int(self.text.startswith("\ufeff")))

    def peek(self) -> str:
        """The next character that is no white space, not taken; empty at the end."""
        while True:
            match = _SPACE.match(self.text, self.at)
            assert match is not None
            self.move(match.end())
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def value(self) -> Any:
        """The JSON value that begins here."""
        while True:
            try:
                value, end = _decode(self.text, self.at)
                # "1." reads as 1: a value has ended only when something that ends one is in sight
                if self.text[end : end + 1] in _ENDS or not self.more():
                    self.move(end)
                    return value
            except json.JSONDecodeError:
                if len(self.text) - self.at > MAX_ROW or not self.more():
                    raise


def _seen(window: _Window) -> str:
    """The value that is there instead of a list; for a mapping its first keys, as far as its values are small."""
    if window.peek() != "{":
        return f"{type(window.value()).__name__}"
    keys: list[str] = []
    mark = "{"
    try:
        while mark in ("{", ",") and len(keys) < 20:
            window.move(window.at + 1)
            if window.peek() == "}":
                break
            keys.append(str(window.value()))
            window.peek()
            window.move(window.at + 1)
            window.peek()
            window.value()
            mark = window.peek()
    except json.JSONDecodeError:
        if not keys:
            raise
    return f"dict: one mapping with the keys {', '.join(keys) or 'none'}; give the list of rows alone"


def list_rows(file: BinaryIO, path: Path) -> Iterator[tuple[int, int, Any]]:
    """(start, size, value) of each item of the list that the file holds; memory is that of a few rows.

    Raises `UserError` if the file is no JSON list: where one item ends then can't be told from where the next begins.
    """
    window, count = _Window(file), 0
    try:
        window.skip_mark()
        if window.peek() != "[":
            raise UserError(f"{path}: expected a list of rows, got {_seen(window)}")
        window.move(window.at + 1)
        if ended := window.peek() == "]":
            window.move(window.at + 1)
        while not ended:
            window.peek()
            start = window.byte
            value = window.value()
            if isinstance(value, RepeatedKeyError):
                value = BadSample("json", f"{path}: row {count}: {value}")
            yield start, window.byte - start, value
            count += 1
            if (mark := window.peek()) not in (",", "]"):
                raise ValueError("expected , or ] after an item")
            window.move(window.at + 1)
            ended = mark == "]"
        if window.peek():
            raise ValueError("something follows the list")
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        where = f"row {count}, near byte {window.byte}"
        text = f"{getattr(error, 'msg', error)}{_advice(error)}"
        raise UserError(f"{path}: not valid JSON: {text} ({where})") from None
