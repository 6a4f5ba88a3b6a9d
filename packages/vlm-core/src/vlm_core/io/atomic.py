"""Atomic writing of files and folders: written under a temporary name, flushed to disk, renamed."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vlm_core.errors import UserError
from vlm_core.markup.printable import printable

ABANDONED_S = 60.0
"""Age in seconds after which an unlocked temporary file is abandoned; a younger one may not be locked yet."""


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def write_errors(path: str | Path) -> Iterator[None]:
    """Turn an `OSError` inside (disk full, no permission, failing device) into a `UserError` with path and reason.

    An impossible path (with a NUL or a lone surrogate) is a `UserError` too.
    """
    try:
        if "\0" in str(path):
            raise OSError("a file name cannot hold a NUL")
        os.fsencode(path)
        yield
    except OSError as error:
        raise UserError(f"{printable(path)}: cannot write: {error.strerror or error}") from None
    except UnicodeEncodeError as error:
        if error.object != str(path):
            raise
        raise UserError(
            f"{printable(path)}: cannot write: a file name cannot hold a lone surrogate"
        ) from None


def write_file(path: str | Path, content: str | bytes) -> None:
    """Write a file atomically: after a kill or a power cut it has the old or the new content. Creates missing folders.

    Text is written as UTF-8, with a lone surrogate as the escape `\\ud800`. For a symbolic link, its target is
    replaced. A pipe or a device, such as /dev/stdout, is written directly. Raises `UserError` if the file can't be
    written; the old content then stays.
    """
    data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    with write_errors(path):
        if _is_stream(Path(path)):
            with open(os.open(path, os.O_WRONLY | os.O_NONBLOCK), "wb") as stream:
                os.set_blocking(stream.fileno(), True)
                stream.write(data)
            return
        path = Path(os.path.realpath(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        tmp = _temporary(path)
        try:
            with tmp.open("xb") as file:
                _lock(file.fileno())
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.replace(tmp, path)
        finally:
            tmp.unlink(missing_ok=True)
        sync(path.parent)


@contextmanager
def append_lines(path: str | Path) -> Iterator[Callable[[str], None]]:
    """A function that appends a line to a file, whose writer is this process alone; created if it is missing.

    A kill loses no earlier line, but may leave a part of the last one: `drop_lines` removes it. Raises `UserError` if
    the file can't be written, or another process writes it.
    """
    with write_errors(path):
        if _is_stream(Path(path)) or Path(path).is_dir():
            raise UserError(f"{printable(path)}: no regular file; remove it, or name another one")
        file = open(path, "ab", buffering=0)  # noqa: SIM115, closed below, where other errors are the caller's

    def append(line: str) -> None:
        with write_errors(path):
            data = line.encode("utf-8", "backslashreplace")
            while data:
                data = data[file.write(data) :]

    with file:
        _require_lock(file.fileno(), path)
        yield append


def drop_lines(
    path: str | Path, read: Callable[[], Iterable[bytes]], is_whole: Callable[[bytes], bool]
) -> int:
    """Remove the lines of a file that are not whole, atomically, and return their number; `read` gives all lines.

    Raises `UserError` as `append_lines`.
    """
    dropped = sum(not is_whole(line) for line in read())
    if dropped:
        with write_errors(path), open(path, "r+b") as file:
            _require_lock(file.fileno(), path)
            write_file(path, b"".join(filter(is_whole, read())))
    return dropped


def _require_lock(handle: int, path: str | Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(f"{printable(path)}: another process is writing this file") from None


def require_writable_folder(folder: str | Path) -> None:
    """Raise `UserError` if no file can be made in a folder, or no folder of this name; nothing is made yet."""
    with write_errors(folder):
        nearest = next(path for path in (Path(folder), *Path(folder).parents) if os.path.lexists(path))
        if not nearest.is_dir():
            raise UserError(f"{printable(nearest)}: not a folder; nothing can be written there")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise UserError(f"{printable(nearest)}: nothing can be written in this folder")


def _is_stream(path: Path) -> bool:
    """Whether the path is a pipe or a device, which must not be replaced by a file."""
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(kind) and not stat.S_ISDIR(kind)


@contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """A temporary folder next to `path`, which is flushed to disk and renamed to `path` at the end.

    After an exception inside, nothing is left. Raises `UserError` if `path` exists or can't be written.
    """
    path = Path(path)
    with write_errors(path):
        if os.path.lexists(path):
            raise UserError(f"{path} exists already; name another folder, or remove this one")
    tmp, lock = _temporary(path), None
    try:
        with write_errors(path):
            tmp.mkdir(parents=True)
            lock = os.open(tmp, os.O_RDONLY)
            _lock(lock)
            _sweep(path)
            yield tmp
            for file in [*tmp.rglob("*"), tmp]:
                sync(file)
            os.rename(tmp, path)
            sync(path.parent)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def _lock(handle: int) -> None:
    """Lock a temporary file while this process runs; on a file system without locks none is ever removed."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return


def sweep(folder: str | Path) -> None:
    """Remove abandoned temporary files and folders in `folder`, for caches, whose files may never be written again."""
    _remove_abandoned(Path(folder).glob(".*.tmp"))


def remove(path: str | Path) -> None:
    """Remove a file, a link or a folder; errors are ignored."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _sweep(path: Path) -> None:
    """Remove abandoned temporary files of `path`."""
    _remove_abandoned(path.parent.glob(f".{glob.escape(path.name)}.????????.tmp"))


def _remove_abandoned(paths: Iterable[Path]) -> None:
    for path in paths:
        if is_abandoned(path):
            remove(path)


def is_abandoned(path: Path) -> bool:
    """Whether a temporary file or folder is left from an interrupted writer: it is unlocked and old enough."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return time.time() - os.fstat(handle).st_mtime >= ABANDONED_S
    except OSError:
        return False
    finally:
        os.close(handle)
