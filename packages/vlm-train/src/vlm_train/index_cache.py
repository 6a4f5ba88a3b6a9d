"""Indexes of large data files in the user's cache folder: verified before use, and rebuilt if missing or damaged."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from vlm_core.errors import UserError
from vlm_core.folder import verify_folder, write_folder

T = TypeVar("T")
log = logging.getLogger(__name__)
_SAMPLES, _SAMPLE_BYTES = 64, 4096


def cache_folder() -> Path | None:
    """`VLM_CACHE`, or `vlm` in the user's cache folder; None for a user without a home."""
    base = os.environ.get("VLM_CACHE")
    if not base:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "vlm")
    folder = os.path.expanduser(base)
    return None if folder.startswith("~") else Path(folder, "rows")


def sampled(file: BinaryIO) -> bytes:
    """A digest of a file's size and of 64 pieces of its bytes."""
    size = os.fstat(file.fileno()).st_size
    digest = hashlib.sha256(str(size).encode())
    for i in range(_SAMPLES):
        digest.update(
            os.pread(file.fileno(), _SAMPLE_BYTES, max(0, size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
        )
    return digest.digest()


def pieces(path: Path) -> str:
    """`sampled`, of a file by name."""
    with path.open("rb") as file:
        return sampled(file).hex()


def fingerprint(file: BinaryIO, path: Path) -> bytes:
    """Identifies the state of a file without reading all of it.

    The time of its last status change is part of it: every write sets that, and unlike the time of modification
    nobody can set it back.
    """
    facts = os.fstat(file.fileno())
    times = facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
    return hashlib.sha256(repr((str(path.resolve()), *times)).encode() + sampled(file)).digest()


def kept(
    name: str,
    version: int,
    what: str,
    build: Callable[[], T],
    write: Callable[[T, Path], None],
    load: Callable[[Path], T],
) -> T:
    """The index called `name`: from the cache if all of it verifies, else built and, where possible, kept there."""
    folder = cache_folder()
    facts = {"version": version, "name": name}
    if folder and (index := _from_cache(folder / name, facts, what, load)) is not None:
        return index
    log.info("%s: indexing, once", what)
    index = build()
    try:
        if folder is None:
            raise UserError("no home folder is known; set VLM_CACHE to a cache folder")
        write_folder(folder / name, lambda tmp: write(index, tmp), facts)
    except (UserError, OSError) as error:
        if folder is None or not os.path.isdir(folder / name):  # unless another process was as quick
            _warn_once(f"indexes of large data files are not kept and must be built each time: {error}")
            return index
    stored = _from_cache(folder / name, facts, what, load)  # mapped, so that processes share it
    return index if stored is None else stored


def _from_cache(path: Path, facts: dict[str, object], what: str, load: Callable[[Path], T]) -> T | None:
    """An index that verifies; one that doesn't is reported and removed."""
    try:
        if not path.is_dir():
            return None
        manifest = verify_folder(path)
        if {key: manifest.get(key) for key in facts} == facts:
            return load(path)
        problem = "written by another version"
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        problem = str(error)
    log.warning("%s: the cached index can't be used and is built again: %s", what, problem)
    shutil.rmtree(path, ignore_errors=True)
    return None


@cache
def _warn_once(text: str) -> None:
    log.warning("%s", text)


def shared(table: np.ndarray) -> Path | np.ndarray:
    """What to pickle of an index: the file that is mapped, so that processes of a machine share it."""
    return Path(table.filename) if isinstance(table, np.memmap) and table.filename else table


def opened(table: Path | np.ndarray) -> np.ndarray:
    """The index that `shared` gave."""
    return np.load(table, mmap_mode="r") if isinstance(table, Path) else table
