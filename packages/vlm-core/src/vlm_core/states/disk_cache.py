"""States in a folder, one file each, named by their key and owner; processes may share it."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.interfaces import State
from vlm_core.io.atomic import remove, sweep, write_errors
from vlm_core.io.private_folder import why_untrusted
from vlm_core.states import tensor_file
from vlm_core.states.owned_lru import OwnedLru

FORMAT, VERSION = "vlm-cached-state", 1
DISK_BYTES = 8 * 2**30
LOGITS, STATE = "next_logits", "state."
SUFFIX = ".safetensors"
READS = 3
"""Attempts to read a state that other processes replace meanwhile."""
_KEY = re.compile("[0-9a-f]{64}")
_NAME = re.compile("[0-9a-f]{64}(?:-([0-9a-f]{16}))?" + re.escape(SUFFIX))
"""The key and, if the state has an owner, the beginning of the owner's digest."""
E = TypeVar("E")
log = logging.getLogger(__name__)


def state_tensors(state: State, next_logits: Tensor) -> dict[str, Tensor]:
    """The tensors of a file: those of the state, and the logits of its last position."""
    return {LOGITS: next_logits, **{STATE + name: t for name, t in state.to_tensors().items()}}


def _identity(path: Path) -> tuple[int, int] | None:
    """What differs once another process has replaced a file; None if there is none."""
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_ino, info.st_mtime_ns


def _touch(path: Path) -> None:
    """Set the time of the last use, but not that of the last change, which readers compare."""
    with suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def _finite(tensors: Mapping[str, Tensor]) -> bool:
    return all(bool(t.isfinite().all()) for t in tensors.values() if t.is_floating_point())


class DiskCache:
    """States of up to `max_bytes` in a folder; beyond that the owner with the most loses the least recently used.

    The folder is created for this user alone, and not used if other users can write to it: a state that another user
    wrote could change an answer. Damaged files are removed and counted. If the folder can't be written, one warning
    says so, and states that are there are still read. Raises `UserError` for a path that is a file.
    """

    def __init__(self, folder: str | Path, max_bytes: int = DISK_BYTES) -> None:
        self.folder, self.max_bytes = Path(folder), max_bytes
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder}: a file, not a folder for the state cache")
        self.damaged = self.evicted = 0
        self._lock, self._readable, self._writable = threading.Lock(), True, True
        try:
            with write_errors(self.folder):
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except UserError as error:
            self._readable = self.folder.is_dir()
            self._stop_writing(str(error))
        if self._readable and (problem := why_untrusted(self.folder)):
            self._readable = False
            self._stop_writing(problem)
        if self._writable:
            sweep(self.folder)

    def get(self, key: str, load: Callable[[dict[str, Tensor]], E], owner: str = "") -> E | None:
        """What `load` makes of the tensors of a state; None if there is none, or a damaged one, which is removed."""
        path = self._path(key, owner)
        for _ in range(READS if self._readable else 0):
            before = _identity(path)
            if before is None:
                return None
            try:
                with tensor_file.opened_tensors(path, "cached state") as file:
                    tensor_file.require_format(file.manifest, FORMAT, VERSION, path)
                    if file.manifest.get("key") != key:
                        raise UserError(f"{path}: damaged: it is the state of another key")
                    entry = load(file.tensors())
            except UserError as error:
                if _identity(path) == before:
                    self._drop(path, error)
                    return None
                continue  # another process has replaced or evicted it meanwhile
            _touch(path)
            return entry
        return None

    def put(self, key: str, state: State, next_logits: Tensor, owner: str = "") -> None:
        """Write a state unless it is there; errors become one warning."""
        path = self._path(key, owner)
        if not self._writable or path.is_file():
            return
        try:
            tensors = state_tensors(state, next_logits)
            if sum(tensor.nbytes for tensor in tensors.values()) > self.max_bytes or not _finite(tensors):
                return
            facts = {"format": FORMAT, "version": VERSION, "key": key}
            tensor_file.write(path, tensors, facts)
        except UserError as error:
            self._stop_writing(str(error))
            return
        self._evict()

    def size(self) -> tuple[int, int]:
        """(number of states, their bytes) that the folder has now, of all processes."""
        sizes = [size for _, size, *_ in self._entries()]
        return len(sizes), sum(sizes)

    def _path(self, key: str, owner: str) -> Path:
        assert _KEY.fullmatch(key), key
        of_owner = f"-{sha256(owner.encode()).hexdigest()[:16]}" if owner else ""
        return self.folder / f"{key}{of_owner}{SUFFIX}"

    def _drop(self, path: Path, error: UserError) -> None:
        self.damaged += 1
        log.warning("%s; the cached state is removed and computed again", error)
        remove(path)

    def _stop_writing(self, problem: str) -> None:
        if self._writable:
            self._writable = False
            log.warning("states are not written to the cache folder: %s", problem)

    def _entries(self) -> list[tuple[float, int, Path, str]]:
        """(time of last use, bytes, path, owner's digest) of every state."""
        entries = []
        with suppress(OSError), os.scandir(self.folder) as files:
            for file in files:
                if name := _NAME.fullmatch(file.name):
                    with suppress(OSError):  # removed by another process
                        info = file.stat(follow_symlinks=False)
                        entries.append((info.st_atime, info.st_size, Path(file.path), name[1] or ""))
        return entries

    def _evict(self) -> None:
        """Remove states of the owner with the most, those first that were not used for the longest time."""
        with self._lock:
            files = OwnedLru[Path, None]()
            for _, size, path, owner in sorted(self._entries()):
                files.put(owner, path, None, size)
            while files.nbytes > self.max_bytes:
                _, path = files.drop_of_most_bytes()
                remove(path)
                self.evicted += 1
