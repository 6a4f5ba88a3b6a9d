"""Rows of parquet files, each found by its file, row group and place in it."""

from __future__ import annotations

import logging
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

from vlm_core.errors import BadSample, UserError, choices
from vlm_core.io import digests
from vlm_core.io.files import MAX_BYTES
from vlm_core.io.image_folder import ImageFolder
from vlm_core.io.images import ImageSource, StoredImage
from vlm_core.io.manifest import sha256
from vlm_core.rows import Blocks, Row, Rows, readable, text_length
from vlm_train.data.conversation.columns import MAX_KEYS, Column, Columns
from vlm_train.data.conversation.image_values import InlineImage, image_value
from vlm_train.data.index_cache import pieces
from vlm_train.data.parquet_files.parquet_cells import cell, image_of, images_of, value
from vlm_train.data.parquet_files.parquet_file import ParquetFile
from vlm_train.data.storage import is_remote

_COUNTED = StoredImage("", bytes)
log = logging.getLogger(__name__)
HELD = 256 * 2**20
"""Bytes of row groups that a process keeps, decompressed; training's order mixes half as many at a time."""


class ParquetRows(Rows):
    """The rows of `files` in order; images are held in the file (`bytes`) or named (`path`, inside `folder`)."""

    def __init__(
        self,
        files: Sequence[str],
        given: Mapping[Column, str],
        folder: ImageFolder,
        ignore: Sequence[str] = (),
    ) -> None:
        with ThreadPoolExecutor(16) as pool:
            self.files = list(pool.map(ParquetFile, files))
        self.folder = folder
        schema = self.files[0].schema
        for file, name in zip(self.files, files, strict=True):
            if not file.schema.equals(schema):
                raise UserError(f"{name}: other columns than {files[0]}: {_difference(file.schema, schema)}")
        if len(schema.names) > MAX_KEYS:
            raise UserError(f"{files[0]}: {len(schema.names)} columns; at most {MAX_KEYS} are read")
        if repeated := sorted({name for name in schema.names if schema.names.count(name) > 1}):
            raise UserError(f"{files[0]}: more than one column is called {repeated[0]!r}; rename all but one")
        self.columns, self.ignore = _columns(given, schema.names, files[0], ignore), tuple(ignore)
        self.wanted = sorted({*self.columns.names.values(), *self.columns.image_keys, *self.columns.unread})
        self._dropped = False
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
        self._bad: dict[int, BadSample] = {}

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
        if number in self._bad:
            raise self._bad[number]
        if number not in self._held:
            file, group = self.groups[number]
            while len(self._held) >= self.together:
                self._held.popitem(last=False)
            try:
                self._held[number] = self.files[file].read(group, self.wanted)
            except BadSample as error:
                self._bad[number] = error
                raise
            while len(self._held) > 2 and sum(table.nbytes for table in self._held.values()) > HELD:
                self._held.popitem(last=False)  # a footer may claim less than there is
        self._held.move_to_end(number)
        return self._held[number]

    def row(self, index: int) -> Row:
        number, place, where = self._place(index)
        try:
            return self._row(self._table(number), place, where, index)
        except BadSample as error:
            raise error.of_row(where) from None

    def _row(self, table: pa.Table, place: int, where: str, index: int | None) -> Row:
        """A row of a table; without an index its images are only counted."""
        record = self._record(table, place, where)
        try:
            cells = self._cells(table, place, where)
            images = [self._image(scalar, where, index, k) for k, scalar in enumerate(cells)]
            row, dropped = self.columns.reading(record, images, where, where)
            if index is None:
                return row
            if dropped:
                self._tell_dropped(where)
            return {**row, "image": [self._source(v, where, index, k) for k, v in enumerate(row["image"])]}
        except BadSample as error:
            raise error.of_row(self.columns.name_of(record, where)) from None

    def _record(self, table: pa.Table, place: int, where: str) -> dict[str, Any]:
        """A row's columns, without those of images."""
        names = [name for name in table.column_names if name not in self.columns.image_keys]
        return {name: value(cell(table, name, place, where), name, where) for name in names}

    def _tell_dropped(self, where: str) -> None:
        if not self._dropped:
            log.warning("%s: gpt speaks first; that turn is left out, here and in later rows", where)
        self._dropped = True

    def _cells(self, table: pa.Table, place: int, where: str) -> list[pa.Scalar]:
        """The images of a row as its column has them."""
        keys = self.columns.image_keys
        filled = [(key, images_of(cell(table, key, place, where, image=True))) for key in keys]
        filled = [(key, cells) for key, cells in filled if cells]
        if len(filled) > 1:
            raise BadSample("schema", f"{where}: images under both {filled[0][0]!r} and {filled[1][0]!r}")
        return filled[0][1] if filled else []

    def _image(self, scalar: pa.Scalar, where: str, index: int | None, k: int) -> Any:
        """An image as `Columns.row` takes it; its bytes stay in the table until somebody reads them."""
        data, other = image_of(scalar, "image", where)
        if index is None:
            return _COUNTED
        if data is not None:
            return StoredImage(f"{where}, image {k}", partial(self.cell_image, index, k))
        return image_value(other, where)

    def _source(self, image: Any, where: str, index: int, k: int) -> ImageSource:
        if isinstance(image, StoredImage):
            return image
        if isinstance(image, InlineImage):
            return StoredImage(f"{where}, inline image {k}", partial(self.inline_image, index, k))
        if not self.folder.root:
            raise BadSample(
                "path",
                f"{where}: image {image!r:.80} is a name without bytes; set images: to the folder of the images",
            )
        return self.folder.locate(image, where)

    def cell_image(self, index: int, k: int) -> bytes:
        """The bytes of the k-th image in a row's column."""
        number, place, where = self._place(index)
        data, _ = image_of(self._cells(self._table(number), place, where)[k], "image", where)
        assert data is not None
        if (size := data.as_buffer().size) > MAX_BYTES:
            raise BadSample("too-large", f"{where}, image {k}: {size} bytes; at most {MAX_BYTES} are read")
        return data.as_buffer().to_pybytes()

    def inline_image(self, index: int, k: int) -> bytes:
        """The bytes of a row's k-th image, which stands in a message or as base64; read anew, so nobody keeps them."""
        number, place, where = self._place(index)
        table = self._table(number)
        images = [
            self._image(scalar, where, index, j) for j, scalar in enumerate(self._cells(table, place, where))
        ]
        image = self.columns.row(self._record(table, place, where), images, where, where)["image"][k]
        return image.decode(f"{where}, inline image {k}")

    def sizes(self) -> np.ndarray:
        """Reads all columns but the images' bytes."""
        found = np.zeros((len(self), 2), dtype=np.int64)
        for number, (f, group) in enumerate(self.groups):
            file = self.files[f]
            with suppress(BadSample):  # its rows are left out when their turn comes
                table = file.read(group, file.without_bytes(self.wanted, self.columns.image_keys))
                for place in range(len(table)):
                    with suppress(BadSample):
                        row = self._row(table, place, "", None)
                        found[self.starts[number] + place] = text_length(row), len(row["image"])
        return found

    def digest(self) -> str:
        """Of small files whole, with the images that they name; of others size, footer and, if local, pieces."""
        stores = [file.store for file in self.files]
        columns = sorted(self.columns.names.items()), sorted(self.ignore)
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


def _columns(given: Mapping[Column, str], names: Sequence[str], where: str, ignore: Sequence[str]) -> Columns:
    for name in ignore:
        if name not in names:
            raise UserError(f"{where}: has no {name!r} to ignore{choices(name, names)}")
    try:
        return Columns(given, names, where, ignore)
    except UserError as error:
        raise UserError(f"{error}; say which with columns:") from None


def _difference(one: pa.Schema, other: pa.Schema) -> str:
    names = sorted({field.name for field in set(one) ^ set(other)})
    return ", ".join(names)
