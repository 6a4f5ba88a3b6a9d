"""Samples of tar shards as rows, read by their place in the file."""

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
from vlm_core.io.images import StoredImage
from vlm_core.io.manifest import sha256
from vlm_core.rows import Row, Rows
from vlm_train.data.conversation.columns import Column
from vlm_train.data.conversation.image_values import InlineImage
from vlm_train.data.index_cache import opened, pieces, shared
from vlm_train.data.storage import Store
from vlm_train.data.tar_files.tar_index import TABLES, Reader, index_of, record_of
from vlm_train.data.tar_files.tar_reader import BLOCK

log = logging.getLogger(__name__)
_ARRAYS = ("table", "pictures", "names")


def member(store: Store, start: int, size: int, crc: int) -> bytes:
    """The bytes of a member, if the header in front of it is the one that was indexed."""
    data = store.read(start - BLOCK, BLOCK + size)
    _same(store, start, data[:BLOCK], crc)
    return data[BLOCK:]


def _same(store: Store, start: int, data: bytes, crc: int) -> None:
    if zlib.crc32(data) != crc:
        raise UserError(
            f"{store.name}: byte {start} is not what was indexed: the file has changed; start it again"
        )


class TarRows(Rows):
    """The samples of `shards` in order; pictures in the order in which a sample has them."""

    def __init__(
        self, shards: Sequence[str], given: Mapping[Column, str], ignore: Sequence[str] = ()
    ) -> None:
        self.reader = Reader(dict(given), tuple(ignore))
        index = index_of(shards, self.reader)
        self.stores = [Store(shard) for shard in shards]
        self.table, self.pictures, self.names = index.rows, index.pictures, index.names
        self._faults = {row: BadSample(*fault) for row, fault in index.faults.items()}
        if index.dropped:
            log.warning("%s: in %d samples gpt speaks first; that turn is left out", shards[0], index.dropped)

    def __len__(self) -> int:
        return len(self.table)

    def faults(self) -> Mapping[int, BadSample]:
        return self._faults

    def digest(self) -> str:
        """Of small shards whole; of larger ones the index, which has every text's checksum, and pieces of each file."""
        reading = sorted(self.reader.given.items()), sorted(self.reader.ignore)
        files = [Path(store.name) for store in self.stores]
        if sum(store.size for store in self.stores) <= digests.WHOLE_BYTES:
            return digests.of("webdataset", reading, [sha256(file) for file in files])
        arrays = (np.ascontiguousarray(getattr(self, name)).view(np.uint8) for name in _ARRAYS)
        tables = [hashlib.sha256(array.data).hexdigest() for array in arrays]
        return digests.of("webdataset", reading, tables, [pieces(file) for file in files])

    def sizes(self) -> np.ndarray:
        return np.stack([self.table["chars"], self.table["pictures"]], axis=1)

    def row(self, index: int) -> Row:
        if index in self._faults:
            raise self._faults[index]
        store, key = self._place(index)
        where = f"{store.name}: {key}"
        row = self._read(index)
        return {
            **row,
            "image": [self._source(image, where, index, k) for k, image in enumerate(row["image"])],
        }

    def _place(self, index: int) -> tuple[Store, str]:
        place = self.table[index]
        return self.stores[place["shard"]], self._text(place["key"], place["length"])

    def _read(self, index: int) -> Row:
        """Row `index` with its images as the shard has them: `StoredImage` for members, `InlineImage` in `.json`."""
        place, (store, key) = self.table[index], self._place(index)
        where = f"{store.name}: {key}"
        data = store.read(int(place["start"]), int(place["size"]))
        _same(store, int(place["start"]), data, int(place["crc"]))
        record = record_of(data, bool(place["caption"]), where)
        pictures = self.pictures[place["picture"] : place["picture"] + place["pictures"]]
        members = [self._member(store, *map(int, picture)) for picture in pictures if picture["start"] >= 0]
        reader = Reader({}) if place["caption"] else self.reader
        return reader.row(record, members, where, key).row

    def _member(
        self, store: Store, start: int, size: int, name: int, length: int, crc: int
    ) -> tuple[str, StoredImage]:
        called = self._text(name, length)
        place = f"{store.name}: {called} (byte {start})"
        return called, StoredImage(place, partial(member, store, start, size, crc))

    def _source(self, image: StoredImage | InlineImage, where: str, index: int, k: int) -> StoredImage:
        if isinstance(image, StoredImage):
            return image
        return StoredImage(f"{where}, image {k}", partial(self.inline_image, index, k))

    def inline_image(self, index: int, k: int) -> bytes:
        """The bytes of a row's k-th image, which its `.json` holds: read anew, so that nobody keeps them."""
        store, key = self._place(index)
        return self._read(index)["image"][k].decode(f"{store.name}: {key}, image {k}")

    def _text(self, start: int, length: int) -> str:
        return self.names[start : start + length].tobytes().decode()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **{name: shared(getattr(self, name)) for name in _ARRAYS}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        tables = zip(_ARRAYS, TABLES.values(), strict=True)
        self.__dict__ = {**state, **{name: opened(state[name], dtype) for name, dtype in tables}}
