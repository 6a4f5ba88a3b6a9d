"""Cache of the indexes of large data files: verified before use, and rebuilt if missing or damaged."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from vlm_core.errors import BadSample, UserError
from vlm_core.io.atomic import remove, sweep
from vlm_core.io.files import json_object, open_regular, read_text
from vlm_core.io.manifest import MANIFEST, verify_folder, write_folder
from vlm_core.io.private_folder import why_untrusted
from vlm_core.markup.printable import printable

T = TypeVar("T")
Faults = dict[int, tuple[str, str, str]]
_DAMAGE = (UserError, OSError, ValueError, KeyError, TypeError, RecursionError)
log = logging.getLogger(__name__)
_SAMPLES, _SAMPLE_BYTES = 64, 4096
MAX_FAULTS = 100_000
"""Bad rows of one data file; the list is kept in memory."""


def cache_folder() -> Path | None:
    """`VLM_CACHE`, or `vlm` in the user's cache folder; None for a user without a home."""
    base = os.environ.get("VLM_CACHE")
    if not base:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "vlm")
    folder = os.path.expanduser(base)
    return None if folder.startswith("~") else Path(folder, "rows")


def sampled_digest(file: BinaryIO) -> bytes:
    """A digest of a file's size and of 64 samples of its bytes."""
    size = os.fstat(file.fileno()).st_size
    digest = hashlib.sha256(str(size).encode())
    for i in range(_SAMPLES):
        digest.update(
            os.pread(file.fileno(), _SAMPLE_BYTES, max(0, size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
        )
    return digest.digest()


def sampled_digest_of(path: Path) -> str:
    """`sampled_digest` of a file by name, in hexadecimal."""
    with open_regular(path) as file:
        return sampled_digest(file).hex()


def fingerprint(file: BinaryIO, path: Path) -> bytes:
    """Identifies the state of a file without reading all of it.

    It includes the time of the last status change (ctime): every write sets it, and unlike mtime no user can set it
    back.
    """
    stat = os.fstat(file.fileno())
    times = stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
    return hashlib.sha256(repr((str(path.resolve()), *times)).encode() + sampled_digest(file)).digest()


def cached_index(
    name: str,
    version: int,
    what: str,
    build: Callable[[], T],
    write: Callable[[T, Path], None],
    load: Callable[[Path], T],
    files: Collection[str],
) -> T:
    """The index `name`: from the cache if it verifies, else built and, where possible, written to the cache.

    `write` creates exactly `files`. `load` raises `UserError` for content that is not an index of this data. An index
    that does not verify is logged and replaced. `what` is the data file in log messages.
    """
    folder, problem = _usable_folder(name)
    facts = {"version": version, "name": name}
    if folder is not None:
        try:
            if os.path.lexists(folder / name):
                return _verified(folder / name, facts, load, files)
        except _DAMAGE as error:
            log.warning("%s: the cached index can't be used and is rebuilt: %s", what, error)
            remove(folder / name)
    log.info("%s: building the index", what)
    index = build()
    try:
        if folder is None:
            raise UserError(problem)
        sweep(folder)
        _write(folder / name, lambda tmp: write(index, tmp), facts)
        return _verified(folder / name, facts, load, files)  # memory-mapped, so that processes share it
    except _DAMAGE as error:
        _warn_once(f"indexes of large data files can't be cached and are rebuilt in each run: {error}")
        return index


def _usable_folder(name: str) -> tuple[Path | None, str]:
    """(the cache folder, ""), or (None, why the index there can't be used); a folder set by `VLM_CACHE` is trusted."""
    folder = cache_folder()
    if folder is None:
        return None, "no home folder is known; set VLM_CACHE to a cache folder"
    problem = None if os.environ.get("VLM_CACHE") else why_untrusted(folder / name)
    return (None, problem) if problem else (folder, "")


def _write(path: Path, write: Callable[[Path], None], facts: dict[str, object]) -> None:
    try:
        write_folder(path, write, facts)
    except UserError:
        if not os.path.isdir(path):  # else another process has just written it
            raise


def _verified(path: Path, facts: dict[str, object], load: Callable[[Path], T], files: Collection[str]) -> T:
    """Load an index after checking its hashes and that it has exactly `files`; raises one of `_DAMAGE`."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise UserError(f"{path}: not a folder")
    with os.scandir(path) as entries:
        present = {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
    if missing := sorted({MANIFEST, *files} - present):
        raise UserError(f"{path / missing[0]}: missing, or not a regular file")
    manifest = verify_folder(path)
    if {key: manifest.get(key) for key in facts} != facts or manifest["files"].keys() != set(files):
        raise UserError("written by another version of vlm-train")
    return load(path)


@cache
def _warn_once(text: str) -> None:
    log.warning("%s", text)


def note_fault(faults: Faults, row: int, error: BadSample, name: str, where: str) -> None:
    """Add a bad row to `faults`; raises `UserError` beyond `MAX_FAULTS`."""
    if len(faults) == MAX_FAULTS:
        first = next(iter(faults.values()))[1]
        raise UserError(f"{where}: more than {MAX_FAULTS} rows can't be used; the first: {first}")
    faults[row] = error.reason, str(error), name


def load_table(path: Path, dtype: np.dtype) -> np.ndarray:
    """A memory-mapped 1-D array of a cached index; raises `UserError` for another dtype. Nothing is unpickled."""
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except MemoryError:
        raise
    except Exception as error:  # the header is a Python literal with any content
        raise UserError(f"{path}: not a readable array: {printable(error, 100)}") from None
    if not isinstance(table, np.ndarray) or table.dtype != dtype or table.ndim != 1:
        raise UserError(f"{path}: an array of another type")
    return table


def load_faults(path: Path, rows: int) -> tuple[dict[str, Any], Faults]:
    """(all values of `faults.json`, its faults by row); raises `UserError` for invalid content."""
    facts = json_object(read_text(path), path)
    try:
        faults = {
            row: (str(reason), str(message), str(name)) for row, (reason, message, name) in facts["faults"]
        }
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a list of faults") from None
    if not all(type(row) is int and 0 <= row < rows for row in faults):
        raise UserError(f"{path}: faults of rows that do not exist")
    return facts, faults


def are_consecutive(starts: np.ndarray, sizes: np.ndarray, end: int) -> bool:
    """Whether byte ranges are in ascending order without overlap, all before `end`."""
    ends = starts.astype(np.int64) + sizes
    return bool(
        (sizes >= 0).all() and (starts >= 0).all() and (ends <= end).all() and (starts[1:] >= ends[:-1]).all()
    )


def to_pickle(table: np.ndarray) -> Path | np.ndarray:
    """The path of a memory-mapped array, so that processes share its pages; other arrays as they are."""
    return Path(table.filename) if isinstance(table, np.memmap) and table.filename else table


def from_pickle(table: Path | np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The inverse of `to_pickle`."""
    return load_table(table, dtype) if isinstance(table, Path) else table
