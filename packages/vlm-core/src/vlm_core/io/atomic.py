"""Files and folders that are whole or not there: written under a temporary name, flushed to disk, renamed."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vlm_core.errors import UserError
from vlm_core.markup.printable import printable

ABANDONED_S = 60.0
"""Age in seconds from which an unlocked temporary file is an interrupted writer's: younger ones may be unlocked yet."""


def sync(path: Path) -> None:
    """Have a file or folder on the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def write_errors(path: str | Path) -> Iterator[None]:
    """Turn an `OSError` inside (disk full, no permission, failing device) into a `UserError` with path and reason.

    So it is with a path that no file can have: one with a NUL or a lone surrogate.
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
    """Replace a file in one step, so that no kill and no power cut leaves half of it; missing folders are made.

    Text is UTF-8; a lone surrogate, which has no UTF-8, becomes its escape `\\ud800`, as in JSON. Of a symbolic link
    the file that it leads to is replaced. A pipe or a device, such as /dev/stdout, is written to as it is.
    Raises `UserError` if it can't be written; the earlier content then stays.
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


def _is_stream(path: Path) -> bool:
    """Whether this is a pipe or a device, which must not be replaced by a file."""
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(kind) and not stat.S_ISDIR(kind)


@contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` in one step.

    It is created next to `path`, flushed to disk and renamed at the end; on any failure nothing is left. Raises
    `UserError` if `path` exists or can't be written.
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
    """Mark as in use while this process lives; a file system without locks leaves its temporary files alone."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return


def sweep(folder: str | Path) -> None:
    """Remove what interrupted writers left of any file or folder in `folder`, for caches: nobody writes these again."""
    _remove_abandoned(Path(folder).glob(".*.tmp"))


def remove(path: str | Path) -> None:
    """Remove a file, a link or a folder; what can't be removed stays."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _sweep(path: Path) -> None:
    """Remove what interrupted writers of `path` left beside it."""
    _remove_abandoned(path.parent.glob(f".{glob.escape(path.name)}.????????.tmp"))


def _remove_abandoned(paths: Iterable[Path]) -> None:
    for left in paths:
        if is_abandoned(left):
            remove(left)


def is_abandoned(left: Path) -> bool:
    """Whether an interrupted writer left this file or folder: nobody has locked it, and it is old enough."""
    try:
        handle = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return time.time() - os.fstat(handle).st_mtime >= ABANDONED_S
    except OSError:
        return False
    finally:
        os.close(handle)
