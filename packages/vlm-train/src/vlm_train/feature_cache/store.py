"""Features on disk: shards that only grow, of which nothing half-written is ever read.

A shard is two files of one writer: `NAME.data`, the features of its images one after the other, and `NAME.keys`, a
record for each of them. The record is written when the features are safe on disk, so a kill leaves at most features
that no record speaks of. `NAME.damaged` has the places of entries that were found damaged since. A writer begins a
shard of its own, and holds a lock on it: any number of processes may read and write at once.

A record's checksum is over its key, the checksum of its features, and what features these are (`owner`, shape, dtype):
of a shard of another model nothing is found. Whatever isn't found is computed again.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import re
import struct
import uuid
import zlib
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.io.atomic import is_abandoned, remove, sweep
from vlm_core.io.files import open_regular, read_bytes

SHARD_BYTES = 2 * 2**30
FLUSH_BYTES = 64 * 2**20
"""After so many bytes what was written is made safe and findable; a kill costs no more than these."""
RECORDS = 2
"""The version of what a record's checksum is over."""
MARKS_BYTES = 16 * 2**20
KEY_BYTES = 16
_RECORD = struct.Struct(f"<{KEY_BYTES}sII")  # key, crc32 of the features, crc32 of both
_ROWS = np.dtype([("key", f"S{KEY_BYTES}"), ("crc", "<u4"), ("check", "<u4")])

log = logging.getLogger(__name__)


def _crc(features: Tensor) -> int:
    return zlib.crc32(features.reshape(-1).view(torch.uint8).numpy().data)


class Store:
    """The features in a folder, all of one `shape` (H, W, D) and `dtype`, by key; mapped into memory where read.

    `owner` is a digest of what made them.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: torch.dtype, owner: str = "") -> None:
        self.folder, self.shape, self.dtype = folder, shape, dtype
        self.seed = zlib.crc32(f"{owner} {shape} {dtype}".encode())
        self.refresh()

    @property
    def entry_bytes(self) -> int:
        """Of one image's features."""
        return math.prod(self.shape) * self.dtype.itemsize

    def refresh(self) -> None:
        """See what has been written since."""
        self._mapped: dict[int, Tensor] = {}
        self._shards = sorted(self.folder.glob("*.keys"))
        found = [self._records(i) for i in range(len(self._shards))]
        keys, crcs, places = (np.concatenate(c) for c in zip(_EMPTY, *found, strict=True))
        order = np.argsort(keys, kind="stable")
        self._keys, self._crcs, self._places = keys[order], crcs[order], places[order]

    def _records(self, shard: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keys, checksums and places (shard, row) of a shard's whole records; of a shard that can't be read, none."""
        path = self._shards[shard]
        try:
            entries = self._entries(path)
            with open_regular(path) as file:
                data = file.read(entries * _RECORD.size)
            marked = _marked(path.with_suffix(".damaged"))
        except UserError as error:
            _warn_once(f"{error}: the features of this shard are computed again")
            return _EMPTY
        rows = np.frombuffer(data, dtype=_ROWS, count=len(data) // _RECORD.size)
        heads = (data[start : start + KEY_BYTES + 4] for start in range(0, rows.nbytes, _RECORD.size))
        good = (
            np.fromiter((zlib.crc32(head, self.seed) for head in heads), np.uint32, len(rows))
            == rows["check"]
        )
        if not good.all():
            _warn_once(
                f"{path}: {len(rows) - good.sum()} records are damaged or another model's, and are not read"
            )
        good[marked[marked < len(rows)]] = False
        at = np.flatnonzero(good)
        return rows["key"][at], rows["crc"][at], np.stack([np.full(len(at), shard), at], axis=1)

    def _entries(self, keys: Path) -> int:
        """How many whole entries a shard's features have; raises `UserError` if there are none of them."""
        with open_regular(keys.with_suffix(".data")) as file:
            return os.fstat(file.fileno()).st_size // self.entry_bytes

    def _find(self, key: bytes) -> int | None:
        wanted = np.array(key, dtype=self._keys.dtype)  # as an array: a scalar would lose zeros at its end
        at = int(np.searchsorted(self._keys, wanted))
        return at if np.array_equal(self._keys[at : at + 1], wanted[None]) else None

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: bytes) -> bool:
        return self._find(key) is not None

    def get(self, key: bytes) -> Tensor | None:
        """Features (H, W, D), not to be written to; None if they are not here.

        Raises `UserError` naming the shard if they are not the bytes that were stored.
        """
        if (at := self._find(key)) is None:
            return None
        shard, row = self._places[at].tolist()
        features = self._entry(shard, row)
        if features is None or _crc(features) != self._crcs[at]:
            path = self._shards[shard].with_suffix(".data")
            raise UserError(
                f"{path}: entry {row} is not what was written: the file is damaged. "
                f"Remove it and {path.stem}.keys; the same command computes its features again"
            )
        return features

    def drop_damaged(self, keys: Iterable[bytes]) -> int:
        """Mark those entries that are not the bytes that were stored, so that nobody finds them again -> how many."""
        count = 0
        for key in keys:
            if (at := self._find(key)) is None:
                continue
            shard, row = self._places[at].tolist()
            features = self._entry(shard, row)
            if features is None or _crc(features) != self._crcs[at]:
                with self._shards[shard].with_suffix(".damaged").open("a") as marks:
                    marks.write(f"{row}\n")
                count += 1
        return count

    def _entry(self, shard: int, row: int) -> Tensor | None:
        """The bytes at a place, None if the file has been removed or cut since it was looked at."""
        if shard not in self._mapped:
            path = self._shards[shard]
            try:
                count = self._entries(path)
                data = str(path.with_suffix(".data"))
                flat = torch.from_file(data, False, count * math.prod(self.shape), dtype=self.dtype)
            except (UserError, RuntimeError):
                return None
            self._mapped[shard] = flat.view(count, *self.shape)
        return self._mapped[shard][row] if row < len(self._mapped[shard]) else None

    def sweep(self) -> None:
        """Remove what interrupted writers left that nobody can read: halves of a shard, and shards without a record."""
        sweep(self.folder)
        for half in [*self.folder.glob("*.keys"), *self.folder.glob("*.data")]:
            keys = half.with_suffix(".keys")
            if not (
                keys.is_file() and keys.stat().st_size and half.with_suffix(".data").exists()
            ) and is_abandoned(half):
                for part in (".keys", ".data", ".damaged"):
                    remove(half.with_suffix(part))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_mapped": {}}  # each process maps for itself


def _marked(path: Path) -> np.ndarray:
    """Places that were found damaged; what is no number in the file is passed over."""
    if not path.exists():
        return np.empty(0, np.int64)
    words = re.findall(rb"^([0-9]{1,9})$", read_bytes(path, MARKS_BYTES), re.MULTILINE)
    return np.array(words, dtype=np.int64)


@cache
def _warn_once(text: str) -> None:
    log.warning(text)


_EMPTY = (np.empty(0, _ROWS["key"]), np.empty(0, np.uint32), np.empty((0, 2), np.int64))


class Writer:
    """Appends to a store from one process; a context, at whose end all is safe."""

    def __init__(self, store: Store, shard_bytes: int = SHARD_BYTES, flush_bytes: int = FLUSH_BYTES) -> None:
        self.store, self.shard_bytes, self.flush_bytes = store, shard_bytes, flush_bytes
        self._data: int | None = None
        self._keys = -1
        self._written, self._records = 0, bytearray()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def add(self, key: bytes, features: Tensor) -> None:
        """Store features (H, W, D) under a key of 16 bytes; raises `OSError` when the disk is full."""
        assert tuple(features.shape) == self.store.shape
        assert features.dtype == self.store.dtype
        features = features.detach().cpu().contiguous()
        if self._data is None:
            self._open()
        assert self._data is not None
        _write(self._data, features.reshape(-1).view(torch.uint8).numpy().data)
        head = struct.pack(f"<{KEY_BYTES}sI", key, _crc(features))
        self._records += head + struct.pack("<I", zlib.crc32(head, self.store.seed))
        self._written += self.store.entry_bytes
        if self._written + self.store.entry_bytes > self.shard_bytes:
            self._close()
        elif len(self._records) // _RECORD.size * self.store.entry_bytes >= self.flush_bytes:
            self._flush()

    def _open(self) -> None:
        name, flags = uuid.uuid4().hex[:16], os.O_CREAT | os.O_EXCL | os.O_WRONLY
        self._data = os.open(self.store.folder / f"{name}.data", flags, 0o666)
        self._keys, self._written = os.open(self.store.folder / f"{name}.keys", flags, 0o666), 0
        for file in (self._data, self._keys):
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder = os.open(self.store.folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def _flush(self) -> None:
        assert self._data is not None
        os.fsync(self._data)
        _write(self._keys, self._records)
        os.fsync(self._keys)
        self._records.clear()

    def _close(self) -> None:
        if self._data is None:
            return
        try:
            self._flush()
        finally:
            os.close(self._data)
            os.close(self._keys)
            self._data = None
            self._records.clear()


def _write(file: int, data: Any) -> None:
    """All of it: the system may take a part only."""
    rest = memoryview(data)
    while len(rest):
        rest = rest[os.write(file, rest) :]
