"""Features on disk in append-only shards; a partially written entry is never read.

A shard is two files of one writer: `NAME.data` has the features of its images one after the other, `NAME.keys` a record
for each of them. A record is written after its features are flushed to disk, so a kill leaves at most features without
a record. `NAME.damaged` lists entries that were found damaged later. Each writer creates a shard of its own and locks
it, so any number of processes may read and write at once.

The checksum of a record covers its key, the checksum of its features, and their origin (`owner`, shape, dtype): records
of another model don't match. Features without a valid record are recomputed.
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
"""After so many bytes, features are flushed and their records written; a kill loses no more than this."""
RECORD_VERSION = 2
"""Changes with what the checksum of a record covers."""
MARKS_BYTES = 16 * 2**20
KEY_BYTES = 16
_RECORD = struct.Struct(f"<{KEY_BYTES}sII")  # key, crc32 of the features, crc32 of both
_ROWS = np.dtype([("key", f"S{KEY_BYTES}"), ("crc", "<u4"), ("check", "<u4")])

log = logging.getLogger(__name__)


def _crc(features: Tensor) -> int:
    return zlib.crc32(features.reshape(-1).view(torch.uint8).numpy().data)


class FeatureStore:
    """The features in a folder by key, all of one `shape` (H, W, D) and `dtype`; memory-mapped on access.

    `owner` is the fingerprint of the encoder.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: torch.dtype, owner: str = "") -> None:
        self.folder, self.shape, self.dtype = folder, shape, dtype
        self.seed = zlib.crc32(f"{owner} {shape} {dtype}".encode())
        self.refresh()

    @property
    def entry_bytes(self) -> int:
        """Bytes of one image's features."""
        return math.prod(self.shape) * self.dtype.itemsize

    def refresh(self) -> None:
        """Load the records of all shards, also of those written since."""
        self._mapped: dict[int, Tensor] = {}
        self._shards = sorted(self.folder.glob("*.keys"))
        records = [self._records(i) for i in range(len(self._shards))]
        keys, crcs, entries = (np.concatenate(c) for c in zip(_EMPTY, *records, strict=True))
        order = np.argsort(keys, kind="stable")
        self._keys, self._crcs, self._entry_of = keys[order], crcs[order], entries[order]

    def _records(self, shard: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keys, checksums and entries (shard, row) of a shard's valid records; empty for an unreadable shard."""
        path = self._shards[shard]
        try:
            entries = self._entry_count(path)
            with open_regular(path) as file:
                data = file.read(entries * _RECORD.size)
            marked = _marked(path.with_suffix(".damaged"))
        except UserError as error:
            _warn_once(f"{error}: the features of this shard are recomputed")
            return _EMPTY
        rows = np.frombuffer(data, dtype=_ROWS, count=len(data) // _RECORD.size)
        heads = (data[start : start + KEY_BYTES + 4] for start in range(0, rows.nbytes, _RECORD.size))
        checks = np.fromiter((zlib.crc32(head, self.seed) for head in heads), np.uint32, len(rows))
        valid = checks == rows["check"]
        if not valid.all():
            _warn_once(
                f"{path}: {len(rows) - valid.sum()} records are damaged or of another model, and are not read"
            )
        valid[marked[marked < len(rows)]] = False
        numbers = np.flatnonzero(valid)
        entry_of = np.stack([np.full(len(numbers), shard), numbers], axis=1)
        return rows["key"][numbers], rows["crc"][numbers], entry_of

    def _entry_count(self, keys: Path) -> int:
        """The number of complete entries in a shard's data file; raises `UserError` if it can't be read."""
        with open_regular(keys.with_suffix(".data")) as file:
            return os.fstat(file.fileno()).st_size // self.entry_bytes

    def _find(self, key: bytes) -> int | None:
        """The position of a key in the sorted keys, None if it is not there."""
        array = np.array(key, dtype=self._keys.dtype)  # an array, since a numpy scalar loses trailing zeros
        position = int(np.searchsorted(self._keys, array))
        return position if np.array_equal(self._keys[position : position + 1], array[None]) else None

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: bytes) -> bool:
        return self._find(key) is not None

    def get(self, key: bytes) -> Tensor | None:
        """Features (H, W, D), read-only; None if there are none.

        Raises `UserError` naming the shard if their checksum is wrong.
        """
        if (position := self._find(key)) is None:
            return None
        shard, row = self._entry_of[position].tolist()
        features = self._entry(shard, row)
        if features is None or _crc(features) != self._crcs[position]:
            path = self._shards[shard].with_suffix(".data")
            raise UserError(
                f"{path}: entry {row} has a wrong checksum: the file is damaged. "
                f"Remove it and {path.stem}.keys, then run the command again to recompute its features"
            )
        return features

    def drop_damaged(self, keys: Iterable[bytes]) -> int:
        """Mark the entries with a wrong checksum, so that no process uses them -> their number."""
        count = 0
        for key in keys:
            if (position := self._find(key)) is None:
                continue
            shard, row = self._entry_of[position].tolist()
            features = self._entry(shard, row)
            if features is None or _crc(features) != self._crcs[position]:
                with self._shards[shard].with_suffix(".damaged").open("a") as marks:
                    marks.write(f"{row}\n")
                count += 1
        return count

    def _entry(self, shard: int, row: int) -> Tensor | None:
        """Features of an entry; None if the file has been removed or truncated since `refresh`."""
        if shard not in self._mapped:
            path = self._shards[shard]
            try:
                count = self._entry_count(path)
                data = str(path.with_suffix(".data"))
                flat = torch.from_file(data, False, count * math.prod(self.shape), dtype=self.dtype)
            except (UserError, RuntimeError):
                return None
            self._mapped[shard] = flat.view(count, *self.shape)
        return self._mapped[shard][row] if row < len(self._mapped[shard]) else None

    def sweep(self) -> None:
        """Remove unusable files of interrupted writers: shards without a data file, a keys file or a record."""
        sweep(self.folder)
        for file in [*self.folder.glob("*.keys"), *self.folder.glob("*.data")]:
            keys, data = file.with_suffix(".keys"), file.with_suffix(".data")
            usable = keys.is_file() and keys.stat().st_size and data.exists()
            if not usable and is_abandoned(file):
                for suffix in (".keys", ".data", ".damaged"):
                    remove(file.with_suffix(suffix))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_mapped": {}}  # each process maps the files itself


def _marked(path: Path) -> np.ndarray:
    """Numbers of the entries that are marked as damaged; other lines of the file are ignored."""
    if not path.exists():
        return np.empty(0, np.int64)
    numbers = re.findall(rb"^([0-9]{1,9})$", read_bytes(path, MARKS_BYTES), re.MULTILINE)
    return np.array(numbers, dtype=np.int64)


@cache
def _warn_once(text: str) -> None:
    log.warning(text)


_EMPTY = (np.empty(0, _ROWS["key"]), np.empty(0, np.uint32), np.empty((0, 2), np.int64))


class Writer:
    """Appends to a store from one process; the end of the context flushes everything to disk."""

    def __init__(
        self, store: FeatureStore, shard_bytes: int = SHARD_BYTES, flush_bytes: int = FLUSH_BYTES
    ) -> None:
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
    """Write all bytes: `os.write` may write fewer."""
    remaining = memoryview(data)
    while len(remaining):
        remaining = remaining[os.write(file, remaining) :]
