"""Large files that are read by position: which ones a spec names, and their bytes, near or far."""

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
"""Of what a remote file system raises: that which another attempt would not change."""
ANSWER_S, SLOWEST = 60.0, 2**20
"""Seconds that a remote storage may take to answer, and the bytes of each further second."""


def is_remote(name: str) -> bool:
    """Whether a name is a URL; `pipe:` commands are neither URLs nor files, and nothing ever runs one."""
    return "://" in name


def expand(paths: str | Sequence[str], suffix: str) -> list[str]:
    """The files that `paths` name, patterns and folders in order of name; raises `UserError` where there is none."""
    named = [paths] if isinstance(paths, str) else list(paths)
    found: list[str] = []
    for name in (name for pattern in named for name in braces(pattern)):
        files = _remote_files(name, suffix) if is_remote(name) else local_files(name, suffix)
        if not files:
            raise UserError(f"{name}: no such {suffix} file")
        found += files
    name, often = Counter(found).most_common(1)[0]
    if often > 1:
        raise UserError(f"{name}: named {often} times by {', '.join(named)}")
    return found


def _remote_files(name: str, suffix: str) -> list[str]:
    system, path = file_system(name)

    def look() -> list[str]:
        if "*" in path:  # "?" and "[" belong to URLs
            return sorted(str(found) for found in system.glob(path))
        if path.partition("?")[0].endswith(
            suffix
        ):  # asking a web server whether this is a folder would load it
            return [path] if system.exists(path) else []
        return sorted(found for found in system.find(path) if found.endswith(suffix))

    return [system.unstrip_protocol(found) for found in _asked(name, look)]


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it; raises `UserError` if its protocol needs a package."""
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url)
    except ImportError as error:
        raise UserError(f"{url}: reading this kind of URL needs a package: {error}") from None
    except ValueError as error:
        raise UserError(f"{url}: {error}") from None


def _asked(name: str, ask: Callable[[], Any], size: int = 0) -> Any:
    """What a file system answers, asked for `size` bytes; of a remote one, anything but "no" may pass."""
    remote = is_remote(name)
    try:
        if not remote:
            return with_retries(name, ask)
        seconds = ANSWER_S + size / SLOWEST
        return with_retries(
            name, lambda: _within(seconds, ask), lambda error: not isinstance(error, _PERMANENT)
        )
    except (OSError, *_PERMANENT) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: cannot be read: {error or type(error).__name__}") from None


def _within(seconds: float, ask: Callable[[], Any]) -> Any:
    """`ask()`, in a thread that is left behind where it takes longer: not every client has a timeout of its own."""
    answers: list[tuple[Any, BaseException | None]] = []

    def work() -> None:
        try:
            answers.append((ask(), None))
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


def _facts(name: str) -> tuple[int, str]:
    """Size and version of a file."""
    if is_remote(name):
        system, path = file_system(name)
        info = _asked(name, lambda: system.info(path))
        if not isinstance(info.get("size"), int):
            raise UserError(f"{name}: the storage does not say how large it is; copy the file here")
        return info["size"], str(info.get("ETag") or info.get("etag") or info.get("mtime"))
    try:
        facts = with_retries(name, lambda: os.stat(name))
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror or error}") from None
    return facts.st_size, str(facts.st_mtime_ns)


class _Handle:
    """A local file, open for reading by position, which threads and forked processes may share."""

    def __init__(self, name: str, facts: tuple[int, str]) -> None:
        self.name, self.facts = name, facts
        self.number = os.open(name, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO may have taken its place

    def read(self, start: int, size: int) -> bytes:
        found = os.fstat(self.number)
        if (found.st_size, str(found.st_mtime_ns)) != self.facts:
            raise UserError(f"{self.name}: changed since this run began; start it again")
        return os.pread(self.number, size, start)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


@lru_cache(maxsize=128)
def _reader(name: str, facts: tuple[int, str], process: int) -> Callable[[int, int], bytes]:
    """(start, size) -> bytes. A process keeps few files open, and none of another's connections."""
    if not is_remote(name):
        return _Handle(name, facts).read
    system, path = file_system(name)
    return lambda start, size: system.cat_file(path, start=start, end=start + size)


class Store:
    """A file of known size, local or remote, read by position.

    Raises `UserError` if the file can't be opened, changes while it is in use, or its storage keeps failing.
    """

    def __init__(self, name: str) -> None:
        self.name, self.facts = name, _facts(name)

    @property
    def size(self) -> int:
        return self.facts[0]

    def read(self, start: int, size: int) -> bytes:
        """`size` bytes from `start`; all of them. Raises `UserError` for a stretch that is not inside the file."""
        if not 0 <= start <= start + size <= self.size:
            raise UserError(f"{self.name}: has {self.size} bytes, but {size} are wanted from byte {start}")

        def attempt() -> bytes:
            data = _reader(self.name, self.facts, os.getpid())(start, size)
            if len(data) != size:
                raise UserError(
                    f"{self.name}: {len(data)} bytes instead of {size}; has it changed in this run?"
                )
            return data

        return _asked(self.name, attempt, size)


class Ranges(io.RawIOBase):
    """A stretch of a store as a file, for libraries that want one; reading outside of it goes to the store."""

    def __init__(self, store: Store, start: int = 0, size: int = 0) -> None:
        self.store, self.start, self.at = store, start, 0
        self.held = memoryview(store.read(start, size) if size else b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = max(0, (0, self.at, self.store.size)[whence] + offset)
        return self.at

    def read(self, size: int = -1) -> bytes | memoryview:  # pyright: ignore[reportIncompatibleMethodOverride]
        left = max(0, self.store.size - self.at)
        size = left if size is None or size < 0 else min(size, left)
        first = self.at - self.start
        self.at += size
        if first >= 0 and first + size <= len(self.held):
            return bytes(self.held[first : first + size])
        return self.store.read(self.at - size, size) if size else b""
