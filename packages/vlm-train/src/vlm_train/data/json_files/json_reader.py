"""Reads a large JSON list, or JSON lines, item by item, with the byte range of each item."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator
from os import SEEK_END
from pathlib import Path
from typing import Any, BinaryIO

from vlm_core.errors import BadSample, UserError
from vlm_core.io.files import unique_keys
from vlm_core.markup.printable import printable
from vlm_train.data.json_files.json_limits import MAX_DEPTH, check_limits, check_surrogates, extent

CHUNK = 2**20
MAX_ROW = 2**26
"""Bytes of one row."""
_SPACE = re.compile(r"[ \t\r\n]*")
_ENDS = (*" \t\r\n,]:}",)


_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys)


def _text_of(error: Exception) -> str:
    """The error in a user's words, where Python's message would mislead."""
    if isinstance(error, UnicodeDecodeError):
        return f"{error}; save the file as UTF-8"
    if isinstance(error, RecursionError):
        return f"nested deeper than {MAX_DEPTH} levels"
    return str(getattr(error, "msg", error)).partition("; use sys.")[0]


def loads(data: bytes, where: str) -> Any:
    """Parse one row; a byte order mark is skipped. Raises `BadSample` for any fault of it."""
    try:
        text = data.decode("utf-8-sig")
        check_limits(text, where)
        value = json.loads(text, object_pairs_hook=unique_keys)
    except BadSample:
        raise
    except json.JSONDecodeError as error:
        raise BadSample("json", f"{where}: not valid JSON: {error}") from None
    except (ValueError, RecursionError) as error:
        raise BadSample("json", f"{where}: not valid JSON: {_text_of(error)}") from None
    check_surrogates(value, text, where)
    return value


def rows_of_file(file: BinaryIO, path: Path) -> Iterator[tuple[int, int, Any]]:
    """(start, size, value) of each row. The content decides between a list and JSON lines, not the file name.

    A file is JSON lines if it has several lines and the first is a complete value; anything else is read as a list.
    A `.jsonl` file is always JSON lines unless it begins with `[`: one bad line there is one bad row.
    """
    first = file.readline(MAX_ROW)
    while first and not _bare(first):
        _skip_space(file)
        first = file.readline(MAX_ROW)
    _skip_space(file)
    more = bool(_bare(file.read(CHUNK)))
    file.seek(0)
    if path.suffix == ".jsonl" and not _bare(first).startswith(b"["):
        return line_rows(file, path)
    lines = more and len(first) < MAX_ROW and _is_json(first)
    return (line_rows if lines else list_rows)(file, path)


def _bare(line: bytes) -> bytes:
    return line.strip().removeprefix(codecs.BOM_UTF8).strip()


def _skip_space(file: BinaryIO) -> int:
    """Move to the next character that is not white space -> the number of line ends before it."""
    lines, size = 0, 512
    while data := file.read(size):
        stripped = data.lstrip()
        lines += data.count(b"\n", 0, len(data) - len(stripped))
        if stripped:
            file.seek(-len(stripped), os.SEEK_CUR)
            break
        size = min(2 * size, CHUNK)
    return lines


def _is_json(line: bytes) -> bool:
    try:
        text = line.decode("utf-8-sig")
        check_limits(text, "")
        json.loads(text)
    except BadSample:  # beyond the limits of a row, but JSON
        return True
    except (ValueError, RecursionError):
        return False
    return True


def line_rows(file: BinaryIO, path: Path) -> Iterator[tuple[int, int, Any]]:
    """(start, size, value) of each non-blank line; the value is a `BadSample` if the line can't be parsed."""
    start = number = 0
    while line := file.readline(MAX_ROW):
        number += 1
        if len(line) == MAX_ROW:
            raise UserError(f"{path}, line {number}: longer than {MAX_ROW} bytes, the limit of a row")
        if not _bare(line):
            number += _skip_space(file)
            start = file.tell()
            continue
        try:
            value = loads(line, f"{path}, line {number}")
        except BadSample as error:
            value = error
        yield start, len(line), value
        start += len(line)


class _Window:
    """A moving window of the file as text; `at` is the position in the text, `byte` the same in the file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.text, self.at, self.byte = file, "", 0, 0
        self.decode = codecs.getincrementaldecoder("utf-8")()

    def more(self) -> bool:
        """Read more text; False at the end of the file. Unparsed text is doubled, so a long row costs linear time."""
        unparsed = self.text[self.at :]
        data = self.file.read(max(CHUNK, len(unparsed)))
        self.text, self.at = unparsed + self.decode.decode(data, final=not data), 0
        return bool(data)

    def move(self, end: int) -> None:
        self.byte += len(self.text[self.at : end].encode())
        self.at = end

    def skip_mark(self) -> None:
        """Skip a byte order mark at the beginning of the file."""
        self.more()
        self.move(int(self.text.startswith("\ufeff")))

    def peek(self) -> str:
        """The next character that is not white space, without consuming it; empty at the end."""
        while True:
            match = _SPACE.match(self.text, self.at)
            assert match is not None
            self.move(match.end())
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def value(self, where: str) -> Any:
        """The JSON value that begins here; a `BadSample` for an invalid value whose end is known.

        Raises `BadSample` for a value beyond the limits whose end is not found.
        """
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                remaining = len(self.text) - self.at
                is_string = self.text.startswith('"', self.at)  # its end may not have been read yet
                if error.pos == self.at and remaining > len("-Infinity") and not is_string:  # not a value
                    raise
                if remaining > MAX_ROW:
                    raise ValueError(f"{error.msg}, or a row of more than {MAX_ROW} bytes") from None
                if not self.more():
                    raise
                if len(self.text) > CHUNK:  # less text can't exceed the limits by much
                    check_limits(self.text, where)
                continue
            except (ValueError, RecursionError) as error:
                if (end := self._end()) is None:
                    if len(self.text) <= CHUNK and self.more():
                        continue
                    raise
                value = BadSample("json", f"{where}: not valid JSON: {_text_of(error)}")
            # "1." parses as 1 where ".5" is not read yet: only a delimiter shows the end of a value
            if self.text[end : end + 1] in _ENDS or not self.more():
                return self._consume(value, end, where)

    def _end(self) -> int | None:
        """The end of a list or mapping that can't be parsed, if its brackets close in the text."""
        bracketed = self.text[self.at : self.at + 1] in ("[", "{")
        return extent(self.text, self.at, to_the_end=True).end if bracketed else None

    def _consume(self, value: Any, end: int, where: str) -> Any:
        """Move behind the value and return it, or a `BadSample` if it exceeds the limits of a row."""
        start = self.at
        try:
            check_limits(self.text, where, start, end)
            check_surrogates(value, self.text, where, start, end)
        except BadSample as error:
            value = error
        self.move(end)
        return value


def _describe(window: _Window, where: str) -> str:
    """The type of a value that is not a list; for a mapping also its first keys."""
    if window.peek() != "{":
        return f"{type(window.value(where)).__name__}"
    keys: list[str] = []
    mark = "{"
    try:
        while mark in ("{", ",") and len(keys) < 20:
            window.move(window.at + 1)
            if window.peek() == "}":
                break
            keys.append(printable(window.value(where), 60))
            window.peek()
            window.move(window.at + 1)
            window.peek()
            window.value(where)
            mark = window.peek()
    except json.JSONDecodeError:
        if not keys:
            raise
    return f"dict: one mapping with the keys {', '.join(keys) or 'none'}; give the list of rows alone"


def list_rows(file: BinaryIO, path: Path) -> Iterator[tuple[int, int, Any]]:
    """(start, size, value) of each item of the file's list, in the memory of a few rows.

    Raises `UserError` if the file is not a valid JSON list, since later items can't be found.
    """
    window, count = _Window(file), 0
    try:
        window.skip_mark()
        if window.peek() != "[":
            raise UserError(f"{path}: expected a list of rows, got {_describe(window, str(path))}")
        window.move(window.at + 1)
        if ended := window.peek() == "]":
            window.move(window.at + 1)
        while not ended:
            window.peek()
            start = window.byte
            value = window.value(f"{path}: row {count}")
            yield start, window.byte - start, value
            count += 1
            if (mark := window.peek()) not in (",", "]"):
                raise ValueError("expected , or ] after an item")
            window.move(window.at + 1)
            ended = mark == "]"
        if window.peek():
            raise ValueError("unexpected text after the list")
    except BadSample as error:
        raise UserError(f"{error}; later rows can't be read") from None
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        where = f"row {count}, near byte {window.byte}"
        hint = "" if _ends_as_a_list(file) else "; is the file cut off?"
        raise UserError(f"{path}: not valid JSON: {_text_of(error)} ({where}){hint}") from None


def _ends_as_a_list(file: BinaryIO) -> bool:
    """Whether `]` is the last character of the file besides white space; the position stays."""
    position = file.tell()
    file.seek(max(0, file.seek(0, SEEK_END) - 64))
    end = file.read()
    file.seek(position)
    return end.rstrip().endswith(b"]")
