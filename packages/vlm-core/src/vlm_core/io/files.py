"""Reading of files named by rows, specs and folders: regular files of bounded size; failing reads are retried."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from vlm_core.errors import BadSample, UserError
from vlm_core.markup.printable import printable

MAX_BYTES = 256 * 2**20
JSON_BYTES, TOKENIZER_BYTES = 16 * 2**20, 64 * 2**20
"""Size limits of JSON files and of tokenizers; the largest known have 10 and 35 MB."""
JSON_VALUES = 500_000
"""Limit of values in a JSON file: 16 MB may contain millions, each of which takes tens of bytes of memory."""
RETRY_DELAYS = (0.1, 1.0, 5.0)
"""Seconds to wait before each retry."""
_RETRIED: ContextVar[list[str] | None] = ContextVar("io_retries", default=None)
T = TypeVar("T")
log = logging.getLogger(__name__)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EREMOTEIO, errno.ENOTCONN}


def is_transient(error: Exception) -> bool:
    """Whether an error is a storage error that may disappear, not a fault of the data."""
    return isinstance(error, OSError) and (
        error.errno in _TRANSIENT or isinstance(error, TimeoutError | ConnectionError)
    )


@contextmanager
def io_retries() -> Iterator[list[str]]:
    """A list to which the name of a file is appended at each retry of a failed read inside."""
    names: list[str] = []
    token = _RETRIED.set(names)
    try:
        yield names
    finally:
        _RETRIED.reset(token)


def with_retries(
    name: str, read: Callable[[], T], transient: Callable[[Exception], bool] = is_transient
) -> T:
    """The result of `read`, which is retried after each of `RETRY_DELAYS` while its errors are `transient`.

    Each failed attempt is logged as a warning and added to `io_retries`. If the last one fails, a `UserError` is
    raised, not a `BadSample`: the data may be good. Other errors are not caught.
    """
    for delay in (*RETRY_DELAYS, None):
        try:
            return read()
        except Exception as error:
            if not transient(error):
                raise
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            if delay is None:
                attempts = len(RETRY_DELAYS) + 1
                raise UserError(f"{name}: the storage fails: {reason} ({attempts} attempts)") from None
            log.warning("%s: reading failed: %s; trying again in %g s", name, reason, delay)
            if (names := _RETRIED.get()) is not None:
                names.append(name)
            time.sleep(delay)
    raise AssertionError("unreachable")


def read_file(path: str | Path) -> bytes:
    """The bytes of a row's file, read `with_retries`.

    Raises `BadSample` if it is missing, not a regular file (a FIFO or device is never opened) or larger than
    `MAX_BYTES`.
    """
    try:
        return with_retries(str(path), lambda: _read(path))
    except OSError as error:
        raise BadSample("unreadable", f"{path}: cannot be read: {error.strerror or error}") from None


def read_start(path: str | Path, size: int) -> bytes:
    """The first `size` bytes of a row's file, or all of a smaller one; raises as `read_file`."""

    def read() -> bytes:
        with _open(path) as file:
            return file.read(size)

    try:
        return with_retries(str(path), read)
    except OSError as error:
        raise BadSample("unreadable", f"{path}: cannot be read: {error.strerror or error}") from None


@contextmanager
def open_row_file(path: str | Path) -> Iterator[BinaryIO]:
    """A row's file of any size, open for reading by position; raises `BadSample` as `read_file`."""
    try:
        file = with_retries(str(path), lambda: _open(path))
    except OSError as error:
        raise BadSample("unreadable", f"{path}: cannot be read: {error.strerror or error}") from None
    with file:
        yield file


def read_samples(path: str | Path, count: int, size: int) -> tuple[int, list[bytes]]:
    """(bytes of a row's file, `count` evenly spaced samples of `size` bytes); raises as `read_file`."""

    def read() -> tuple[int, list[bytes]]:
        with _open(path) as file:
            length = os.fstat(file.fileno()).st_size
            last = max(0, length - size)
            starts = [last * i // (count - 1) for i in range(count)]
            return length, [os.pread(file.fileno(), size, start) for start in starts]

    try:
        return with_retries(str(path), read)
    except OSError as error:
        raise BadSample("unreadable", f"{path}: cannot be read: {error.strerror or error}") from None


def read_bytes(path: str | Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file; `read_file` is for files of rows.

    Raises `UserError` if it is missing, not a regular file (a FIFO or device is never opened), unreadable or larger
    than `max_bytes`.
    """
    try:
        return _read(path, max_bytes)
    except BadSample as error:
        raise _unreadable(path, error) from None
    except OSError as error:
        raise UserError(f"{path}: cannot read this file: {error.strerror or error}") from None


def read_text(path: str | Path, max_bytes: int = MAX_BYTES) -> str:
    """The text of a UTF-8 file, as `decode_text`; raises `UserError` as `read_bytes`."""
    return decode_text(read_bytes(path, max_bytes), path)


@contextmanager
def open_regular(path: str | Path) -> Iterator[BinaryIO]:
    """A regular file of any size, open for reading; raises `UserError` as `read_bytes`."""
    try:
        with _open(path) as file:
            yield file
    except BadSample as error:
        raise _unreadable(path, error) from None
    except OSError as error:
        raise UserError(f"{path}: cannot read this file: {error.strerror or error}") from None


def _unreadable(path: str | Path, error: BadSample) -> UserError:
    """The `UserError` for a `BadSample` of a file that is not a row's."""
    what = str(error).removeprefix(f"{printable(path)}: ")
    return UserError(f"{path}: cannot read this file: {what}")


def decode_text(content: bytes, name: str | Path) -> str:
    """Decode UTF-8, without a byte order mark and with line feeds as line ends; `UserError` for other encodings."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{name}:{line}: not UTF-8 text (byte {error.start} is {content[error.start]:#04x}); save it as UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def parse_json(text: str, where: str | Path) -> Any:
    """Any JSON value; `UserError` for invalid JSON, too deep nesting, or a number of thousands of digits."""
    try:
        return json.loads(text)
    except RecursionError:
        raise UserError(f"{where}: not JSON that can be read: nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from None


def json_object(text: str, where: str | Path, max_values: int | None = None) -> dict[str, Any]:
    """A JSON object; `UserError` for other text, or for more than about `max_values` values."""
    values = text.count(",") + text.count("[") + text.count("{")
    if max_values is not None and values > max_values:
        raise UserError(f"{where}: about {values} values; at most {max_values} are read")
    content = parse_json(text, where)
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected a JSON object, got {type(content).__name__}")
    return content


def read_json(path: str | Path, max_bytes: int = JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file; raises `UserError` as `read_bytes` and `json_object`."""
    return json_object(read_text(path, max_bytes), path, JSON_VALUES)


class RepeatedKeyError(ValueError):
    """A JSON object with a repeated key, whose value would be ambiguous."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` for json decoders; raises `RepeatedKeyError` for a repeated key."""
    content = dict(pairs)
    if len(content) < len(pairs):
        seen = set[str]()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise RepeatedKeyError(f"the key {twice!r:.60} appears twice")
    return content


def _read(path: str | Path, max_bytes: int = MAX_BYTES) -> bytes:
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise BadSample("too-large", f"{path}: {size} bytes; at most {max_bytes} are read")
        return file.read(size)


def _open(path: str | Path) -> BinaryIO:
    try:
        kind = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise BadSample("missing", f"{path}: no such file") from None
    except ValueError as error:  # a NUL or a surrogate in the name
        raise BadSample("path", f"{str(path)!a:.200}: no name of a file: {error}") from None
    if not stat.S_ISREG(kind):
        what = _KINDS.get(stat.S_IFMT(kind), "no regular file")
        raise BadSample("not-a-file", f"{path}: {what}, expected a regular file")
    return open(path, "rb")
