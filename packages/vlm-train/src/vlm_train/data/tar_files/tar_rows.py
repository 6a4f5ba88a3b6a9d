"""Samples of tar shards as rows, read by byte range."""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vlm_core.errors import BadSample, UserError
from vlm_core.io import digests
from vlm_core.io.manifest import sha256
from vlm_core.io.video.sources import ImageSource, StoredImage
from vlm_core.rows import Row, Rows
from vlm_train.data.conversation.columns import Column
from vlm_train.data.conversation.image_values import InlineImage
from vlm_train.data.conversation.video_values import source_of
from vlm_train.data.index_cache import from_pickle, sampled_digest_of, to_pickle
from vlm_train.data.storage import RandomAccessFile
from vlm_train.data.tar_files.tar_index import TABLES, RecordReader, index_of, record_of
from vlm_train.data.tar_files.tar_reader import BLOCK

log = logging.getLogger(__name__)
_ARRAYS = ("table", "pictures", "names")


def member(shard: RandomAccessFile, start: int, size: int, crc: int) -> bytes:
    """The bytes of a member; raises `UserError` if its header is not the indexed one."""
    data = shard.read(start - BLOCK, BLOCK + size)
    _check_crc(shard, start, data[:BLOCK], crc)
    return data[BLOCK:]


def _check_crc(shard: RandomAccessFile, start: int, data: bytes, crc: int) -> None:
    if zlib.crc32(data) != crc:
        raise UserError(
            f"{shard.name}: byte {start} has changed since the file was indexed; run the command again"
        )


class TarRows(Rows):
    """The samples of `shards` in order, with their images in order."""

    def __init__(
        self, shards: Sequence[str], given: Mapping[Column, str], ignore: Sequence[str] = ()
    ) -> None:
        self.reader = RecordReader(dict(given), tuple(ignore))
        index = index_of(shards, self.reader)
        self.shards = [RandomAccessFile(shard) for shard in shards]
        self.table, self.pictures, self.names = index.rows, index.pictures, index.names
        self._faults = {row: BadSample(*fault) for row, fault in index.faults.items()}
        if index.dropped:
            log.warning("%s: in %d samples gpt speaks first; that turn is not used", shards[0], index.dropped)

    def __len__(self) -> int:
        return len(self.table)

    def faults(self) -> Mapping[int, BadSample]:
        return self._faults

    def digest(self) -> str:
        """Small shards are hashed completely; of larger ones the index, with a CRC of each text, and file samples."""
        options = sorted(self.reader.given.items()), sorted(self.reader.ignore)
        files = [Path(shard.name) for shard in self.shards]
        if sum(shard.size for shard in self.shards) <= digests.WHOLE_BYTES:
            return digests.of("webdataset", options, [sha256(file) for file in files])
        arrays = (np.ascontiguousarray(getattr(self, name)).view(np.uint8) for name in _ARRAYS)
        tables = [hashlib.sha256(array.data).hexdigest() for array in arrays]
        return digests.of("webdataset", options, tables, [sampled_digest_of(file) for file in files])

    def sizes(self) -> np.ndarray:
        return np.stack([self.table[name] for name in ("chars", "pictures", "videos")], axis=1)

    def row(self, index: int) -> Row:
        if index in self._faults:
            raise self._faults[index]
        shard, key = self._locate(index)
        where = f"{shard.name}: {key}"
        row = self._read(index)
        images = [self._source(image, where, index, k) for k, image in enumerate(row["image"])]
        return {**row, "image": images}

    def _locate(self, index: int) -> tuple[RandomAccessFile, str]:
        """(shard, key) of a sample."""
        entry = self.table[index]
        return self.shards[entry["shard"]], self._name(entry["key"], entry["length"])

    def _read(self, index: int) -> Row:
        """Row `index` with images as in the shard: `StoredImage` for members, `InlineImage` for those in `.json`."""
        entry, (shard, key) = self.table[index], self._locate(index)
        where = f"{shard.name}: {key}"
        data = shard.read(int(entry["start"]), int(entry["size"]))
        _check_crc(shard, int(entry["start"]), data, int(entry["crc"]))
        record = record_of(data, bool(entry["caption"]), where)
        pictures = self.pictures[entry["picture"] : entry["picture"] + entry["pictures"]]
        members = [self._member(shard, *map(int, picture)) for picture in pictures if picture["start"] >= 0]
        reader = RecordReader({}) if entry["caption"] else self.reader
        return reader.row(record, members, where, key).row

    def _member(
        self, shard: RandomAccessFile, start: int, size: int, name_start: int, name_length: int, crc: int
    ) -> tuple[str, StoredImage]:
        name = self._name(name_start, name_length)
        where = f"{shard.name}: {name} (byte {start})"
        return name, StoredImage(where, partial(member, shard, start, size, crc))

    def _source(self, image: Any, where: str, index: int, k: int) -> ImageSource:
        return source_of(image, lambda value: self._file(value, where, index, k))

    def _file(self, image: StoredImage | InlineImage, where: str, index: int, k: int) -> StoredImage:
        if isinstance(image, StoredImage):
            return image
        return StoredImage(f"{where}, image {k}", partial(self.inline_image, index, k))

    def inline_image(self, index: int, k: int) -> bytes:
        """The bytes of a row's k-th image, one in `.json`. They are read again, so that rows in memory stay small."""
        shard, key = self._locate(index)
        return self._read(index)["image"][k].decode(f"{shard.name}: {key}, image {k}")

    def _name(self, start: int, length: int) -> str:
        return self.names[start : start + length].tobytes().decode()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **{name: to_pickle(getattr(self, name)) for name in _ARRAYS}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        tables = zip(_ARRAYS, TABLES.values(), strict=True)
        self.__dict__ = {**state, **{name: from_pickle(state[name], dtype) for name, dtype in tables}}
