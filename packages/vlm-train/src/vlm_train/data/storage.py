"""Random access to large data files, local or remote: the files that a spec names, and their bytes by position."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from threading import Thread
from typing import Any

from vlm_core.errors import UserError
from vlm_core.io.files import with_retries
from vlm_train.data.file_patterns import braces, local_files

_PERMANENT = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ImportError,
    ValueError,
)
"""Errors of a remote file system for which a retry is useless."""
RESPONSE_SECONDS, MIN_BYTES_PER_SECOND = 60.0, 2**20
"""The timeout of a remote read of n bytes is `RESPONSE_SECONDS + n / MIN_BYTES_PER_SECOND`."""


def is_remote(name: str) -> bool:
    """Whether a name is a URL. webdataset's `pipe:` commands are neither URLs nor files and are never run."""
    return "://" in name


def expand(paths: str | Sequence[str], suffix: str) -> list[str]:
    """The files that `paths` name, each folder's and pattern's sorted by name; raises `UserError` if there are none."""
    patterns = [paths] if isinstance(paths, str) else list(paths)
    expanded: list[str] = []
    for name in (name for pattern in patterns for name in braces(pattern)):
        files = _remote_files(name, suffix) if is_remote(name) else local_files(name, suffix)
        if not files:
            raise UserError(f"{name}: no such {suffix} file")
        expanded += files
    name, times = Counter(expanded).most_common(1)[0]
    if times > 1:
        raise UserError(f"{name}: named {times} times by {', '.join(patterns)}")
    return expanded


def _remote_files(name: str, suffix: str) -> list[str]:
    system, path = file_system(name)

    def search() -> list[str]:
        if "*" in path:  # "?" and "[" belong to URLs
            return sorted(str(file) for file in system.glob(path))
        if path.partition("?")[0].endswith(suffix):  # listing it as a folder would download it over http
            return [path] if system.exists(path) else []
        return sorted(file for file in system.find(path) if file.endswith(suffix))

    return [system.unstrip_protocol(file) for file in _with_retries(name, search)]


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it; raises `UserError` if its protocol needs a package."""
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url)
    except ImportError as error:
        raise UserError(f"{url}: reading this kind of URL needs a package: {error}") from None
    except ValueError as error:
        raise UserError(f"{url}: {error}") from None


def _with_retries(name: str, request: Callable[[], Any], size: int = 0) -> Any:
    """`request()`, for `size` bytes, with retries; of a remote file all errors but `_PERMANENT` are retried."""
    remote = is_remote(name)
    try:
        if not remote:
            return with_retries(name, request)
        seconds = RESPONSE_SECONDS + size / MIN_BYTES_PER_SECOND
        return with_retries(
            name, lambda: _within(seconds, request), lambda error: not isinstance(error, _PERMANENT)
        )
    except (OSError, *_PERMANENT) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: cannot be read: {error or type(error).__name__}") from None


def _within(seconds: float, request: Callable[[], Any]) -> Any:
    """`request()` with a timeout, in a thread that is abandoned when it expires: not all clients have a timeout."""
    answers: list[tuple[Any, BaseException | None]] = []

    def work() -> None:
        try:
            answers.append((request(), None))
        except BaseException as error:
            answers.append((None, error))

    thread = Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answers:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    answer, error = answers[0]
    if error is not None:
        raise error
    return answer


def _version(name: str) -> tuple[int, str]:
    """(size, modification time or ETag) of a file."""
    if is_remote(name):
        system, path = file_system(name)
        info = _with_retries(name, lambda: system.info(path))
        if not isinstance(info.get("size"), int):
            raise UserError(f"{name}: the storage does not give its size; download the file")
        return info["size"], str(info.get("ETag") or info.get("etag") or info.get("mtime"))
    try:
        stat = with_retries(name, lambda: os.stat(name))
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror or error}") from None
    return stat.st_size, str(stat.st_mtime_ns)


class _Handle:
    """A local file, open for reading by position, which threads and forked processes may share."""

    def __init__(self, name: str, version: tuple[int, str]) -> None:
        self.name, self.version = name, version
        self.number = os.open(name, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO may have replaced it

    def read(self, start: int, size: int) -> bytes:
        stat = os.fstat(self.number)
        if (stat.st_size, str(stat.st_mtime_ns)) != self.version:
            raise UserError(f"{self.name}: changed since this run began; start it again")
        return os.pread(self.number, size, start)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


@lru_cache(maxsize=128)
def _reader(name: str, version: tuple[int, str], process: int) -> Callable[[int, int], bytes]:
    """(start, size) -> bytes. The cache bounds open files; `process` keeps forks from sharing a connection."""
    if not is_remote(name):
        return _Handle(name, version).read
    system, path = file_system(name)
    return lambda start, size: system.cat_file(path, start=start, end=start + size)


class RandomAccessFile:
    """A file of known size, local or remote, read by position.

    Raises `UserError` if the file can't be opened, changes while it is in use, or its storage keeps failing.
    """

    def __init__(self, name: str) -> None:
        self.name, self.version = name, _version(name)

    @property
    def size(self) -> int:
        return self.version[0]

    def read(self, start: int, size: int) -> bytes:
        """Exactly `size` bytes from `start`. Raises `UserError` for a range that is not inside the file."""
        if not 0 <= start <= start + size <= self.size:
            raise UserError(f"{self.name}: has {self.size} bytes, but {size} are wanted from byte {start}")

        def attempt() -> bytes:
            data = _reader(self.name, self.version, os.getpid())(start, size)
            if len(data) != size:
                raise UserError(
                    f"{self.name}: {len(data)} bytes instead of {size}; has it changed in this run?"
                )
            return data

        return _with_retries(self.name, attempt, size)


class BufferedRange(io.RawIOBase):
    """A file object with one range in memory, for pyarrow; reads outside of the range go to the file."""

    def __init__(self, file: RandomAccessFile, start: int = 0, size: int = 0) -> None:
        self.file, self.start, self.position = file, start, 0
        self.buffer = memoryview(file.read(start, size) if size else b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = max(0, (0, self.position, self.file.size)[whence] + offset)
        return self.position

    def read(self, size: int = -1) -> bytes | memoryview:  # pyright: ignore[reportIncompatibleMethodOverride]
        remaining = max(0, self.file.size - self.position)
        size = remaining if size is None or size < 0 else min(size, remaining)
        first = self.position - self.start
        self.position += size
        if first >= 0 and first + size <= len(self.buffer):
            return bytes(self.buffer[first : first + size])
        return self.file.read(self.position - size, size) if size else b""
