"""Rows of parquet files, each found by its file, row group and place in it."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vlm_core import digests
from vlm_core.errors import BadSample, UserError
from vlm_core.files import MAX_BYTES
from vlm_core.folder import sha256
from vlm_core.images import ImageSource, StoredImage
from vlm_core.rows import Blocks, Row, Rows, readable
from vlm_train.index_cache import pieces
from vlm_train.layouts import Column, Columns
from vlm_train.llava_row import ImageFolder
from vlm_train.parquet_file import ParquetFile
from vlm_train.storage import is_remote

HELD = 256 * 2**20
"""Bytes of row groups that a process keeps, decompressed; training's order mixes half as many at a time."""


class ParquetRows(Rows):
    """The rows of `files` in order; images are held in the file (`bytes`) or named (`path`, inside `folder`)."""

    def __init__(self, files: Sequence[str], given: Mapping[Column, str], folder: ImageFolder) -> None:
        with ThreadPoolExecutor(16) as pool:
            self.files = list(pool.map(ParquetFile, files))
        self.folder = folder
        schema = self.files[0].schema
        for file, name in zip(self.files, files, strict=True):
            if not file.schema.equals(schema):
                raise UserError(f"{name}: other columns than {files[0]}: {_difference(file.schema, schema)}")
        self.columns = Columns(given, schema.names, files[0])
        self.wanted = sorted(set(self.columns.names.values()))
        sizes = [(f, g, n) for f, file in enumerate(self.files) for g, n in enumerate(file.rows)]
        self.groups = [(f, g) for f, g, n in sizes if n]
        self.starts = [0, *accumulate(n for _, _, n in sizes if n)]
        firsts = {f: i for i, (f, _) in reversed(list(enumerate(self.groups)))}
        self.first_rows = {f: self.starts[i] for f, i in firsts.items()}
        if not self.groups:
            raise UserError(f"{files[0]}: holds no rows")
        largest = max(size for file in self.files for size in file.bytes)
        self.together = max(2, HELD // max(1, largest))
        self._held: OrderedDict[int, pa.Table] = OrderedDict()

    def __len__(self) -> int:
        return self.starts[-1]

    def blocks(self) -> Blocks | None:
        """Row groups; None where all of them fit into what a process keeps."""
        if len(self.groups) <= self.together:
            return None
        return Blocks(np.diff(self.starts), max(1, self.together // 2))  # a step may stand in two windows

    def _place(self, index: int) -> tuple[int, int, str]:
        """Row `index` as (number of its group, place in the group, name)."""
        number = bisect_right(self.starts, index) - 1
        file = self.groups[number][0]
        where = f"{self.files[file].store.name}: row {index - self.first_rows[file]}"
        return number, index - self.starts[number], where

    def _table(self, number: int) -> pa.Table:
        """A row group, kept until `together` others have been read."""
        if number not in self._held:
            file, group = self.groups[number]
            while len(self._held) >= self.together:
                self._held.popitem(last=False)
            self._held[number] = self.files[file].read(group, self.wanted)
        self._held.move_to_end(number)
        return self._held[number]

    def row(self, index: int) -> Row:
        number, place, where = self._place(index)
        return self._row(self._table(number), place, where, index)

    def _row(self, table: pa.Table, place: int, where: str, index: int | None) -> Row:
        """A row of a table; without an index its images are only counted."""
        column = self.columns.names.get("image")
        record = {name: table[name][place].as_py() for name in table.column_names if name != column}
        cells = _cells(table[column][place]) if column else []
        images = cells if index is None else [self._source(c, where, index, k) for k, c in enumerate(cells)]
        return self.columns.row(record, images, where, where)

    def _source(self, cell: Any, where: str, index: int, k: int) -> ImageSource:
        data, name = _parts(cell)
        if data is not None:
            return StoredImage(f"{where}, image {k}", partial(self.image, index, k))
        if not self.folder.root:
            raise BadSample("path", f"{where}: image {name!r:.80} is only named; set images: to its folder")
        return self.folder.locate(name, where)

    def image(self, index: int, k: int) -> bytes:
        """The bytes of a row's k-th image."""
        number, place, where = self._place(index)
        data, _ = _parts(_cells(self._table(number)[self.columns.names["image"]][place])[k])
        assert data is not None
        if (size := data.as_buffer().size) > MAX_BYTES:
            raise BadSample("too-large", f"{where}, image {k}: {size} bytes; at most {MAX_BYTES} are read")
        return data.as_buffer().to_pybytes()

    def sizes(self) -> np.ndarray:
        """Reads all columns but the images' bytes."""
        found = np.zeros((len(self), 2), dtype=np.int64)
        for number, (f, group) in enumerate(self.groups):
            file = self.files[f]
            with suppress(BadSample):  # its rows are left out when their turn comes
                table = file.read(group, file.without_bytes(self.wanted))
                for place in range(len(table)):
                    with suppress(BadSample):
                        row = self._row(table, place, "", None)
                        chars = sum(len(turn["value"]) for turn in row["conversations"])
                        found[self.starts[number] + place] = chars, len(row["image"])
        return found

    def digest(self) -> str:
        """Of small files whole, with the images that they name; of others size, footer and, if local, pieces."""
        columns, stores = sorted(self.columns.names.items()), [file.store for file in self.files]
        near = [Path(store.name) for store in stores if not is_remote(store.name)]
        if len(near) == len(stores) and sum(store.size for store in stores) <= digests.WHOLE_BYTES:
            images = (image for row in readable(self) for image in row["image"])
            named = [image for image in images if not isinstance(image, StoredImage)]
            whole = [sha256(file) for file in near]
            return digests.of("parquet", columns, whole, digests.of_images(named))
        footers = [[store.size, file.footer_digest()] for store, file in zip(stores, self.files, strict=True)]
        return digests.of("parquet", columns, footers, [pieces(file) for file in near])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": OrderedDict()}


def _difference(one: pa.Schema, other: pa.Schema) -> str:
    names = sorted({field.name for field in set(one) ^ set(other)})
    return ", ".join(names)


def _cells(value: pa.Scalar) -> list[pa.Scalar]:
    """The images of a row: none, one or several."""
    if not value.is_valid:
        return []
    if isinstance(value, pa.ListScalar):
        return list(value)
    return [value]


def _parts(cell: pa.Scalar) -> tuple[Any, Any]:
    """An image as (scalar of its bytes or None, name or None)."""
    if not cell.is_valid:
        return None, None
    if isinstance(cell, pa.StructScalar):
        held = cell.get("bytes")
        name = cell["path"].as_py() if "path" in cell else None
        return (held if held is not None and held.is_valid else None), name
    if isinstance(cell, pa.BinaryScalar) and not isinstance(cell, pa.StringScalar):
        return cell, None
    return None, cell.as_py()
