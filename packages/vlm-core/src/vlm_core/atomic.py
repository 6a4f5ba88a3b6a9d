"""Files and folders that are whole or not there: written aside, flushed to disk, renamed."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlm_core.errors import UserError

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
    """Turn an `OSError` inside (disk full, no permission, failing device) into a `UserError` with path and reason."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot write: {error.strerror or error}") from None


def write_file(path: str | Path, content: str | bytes) -> None:
    """Replace a file in one step, so that no kill and no power cut leaves half of it; missing folders are made.

    Text is UTF-8; a lone surrogate, which has no UTF-8, becomes its escape `\\ud800`, as in JSON.
    Raises `UserError` if it can't be written; the earlier content then stays.
    """
    path = Path(path)
    with write_errors(path):
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: cannot write: not a regular file; name another one")
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        aside = _aside(path)
        try:
            with aside.open("xb") as file:
                _lock(file.fileno())
                file.write(
                    content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
                )
                file.flush()
                os.fsync(file.fileno())
                os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        sync(path.parent)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` in one step.

    It stands beside `path` and is flushed to disk and renamed at the end; on any failure nothing is left. Raises
    `UserError` if `path` exists or can't be written.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists already; name another folder, or remove this one")
    aside, lock = _aside(path), None
    try:
        with write_errors(path):
            aside.mkdir(parents=True)
            lock = os.open(aside, os.O_RDONLY)
            _lock(lock)
            _sweep(path)
            yield aside
            for file in [*aside.rglob("*"), aside]:
                sync(file)
            os.rename(aside, path)
            sync(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def _lock(handle: int) -> None:
    """Mark as in use while this process lives; a file system without locks leaves its temporary files alone."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return


def _sweep(path: Path) -> None:
    """Remove what interrupted writers of `path` left beside it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.????????.tmp"):
        if _is_abandoned(left):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _is_abandoned(left: Path) -> bool:
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
