"""Rows of parquet files, addressed by file, row group and position in the group."""

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
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from vlm_core.errors import BadSample, UserError, choices
from vlm_core.io import digests
from vlm_core.io.files import MAX_BYTES
from vlm_core.io.image_folder import ImageFolder
from vlm_core.io.manifest import sha256
from vlm_core.io.video.sources import FileSource, ImageSource, StoredImage, file_of
from vlm_core.rows import Blocks, Row, Rows, readable, text_length
from vlm_train.data.conversation.columns import MAX_KEYS, Column, Columns
from vlm_train.data.conversation.image_values import InlineImage, image_value
from vlm_train.data.conversation.video_values import RowVideo, source_of, video_value
from vlm_train.data.index_cache import sampled_digest_of
from vlm_train.data.parquet_files.parquet_cells import cell, image_of, images_of, value
from vlm_train.data.parquet_files.parquet_file import ParquetFile
from vlm_train.data.storage import is_remote

_COUNTED = StoredImage("", bytes)


class MediaCell(NamedTuple):
    """An image or video of a row as the scalar of its column."""

    scalar: pa.Scalar
    video: bool


log = logging.getLogger(__name__)
CACHED_BYTES = 256 * 2**20
"""Decompressed bytes of row groups that a process keeps; training's order mixes half as many at a time."""


class ParquetRows(Rows):
    """The rows of `files` in order; images are in the file (`bytes`) or files inside `folder` (`path`)."""

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
            raise UserError(f"{files[0]}: several columns are named {repeated[0]!r}; rename all but one")
        self.columns, self.ignore = _columns(given, schema.names, files[0], ignore), tuple(ignore)
        self.names_to_read = sorted({*self.columns.names.values(), *self._media_keys, *self.columns.unread})
        self._warned = False
        sizes = [(f, g, n) for f, file in enumerate(self.files) for g, n in enumerate(file.rows)]
        self.groups = [(f, g) for f, g, n in sizes if n]
        self.starts = [0, *accumulate(n for _, _, n in sizes if n)]
        firsts = {f: i for i, (f, _) in reversed(list(enumerate(self.groups)))}
        self.first_rows = {f: self.starts[i] for f, i in firsts.items()}
        if not self.groups:
            raise UserError(f"{files[0]}: has no rows")
        largest = max(size for file in self.files for size in file.bytes)
        self.max_cached = max(2, CACHED_BYTES // max(1, largest))
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._bad: dict[int, BadSample] = {}

    def __len__(self) -> int:
        return self.starts[-1]

    def blocks(self) -> Blocks | None:
        """The row groups; None if a process can keep all of them."""
        if len(self.groups) <= self.max_cached:
            return None
        return Blocks(np.diff(self.starts), max(1, self.max_cached // 2))  # a step may span two windows

    def _locate(self, index: int) -> tuple[int, int, str]:
        """Row `index` as (number of its group, position in the group, name for messages)."""
        number = bisect_right(self.starts, index) - 1
        file = self.groups[number][0]
        where = f"{self.files[file].file.name}: row {index - self.first_rows[file]}"
        return number, index - self.starts[number], where

    def _table(self, number: int) -> pa.Table:
        """A row group, from the cache of the `max_cached` most recently used ones."""
        if number in self._bad:
            raise self._bad[number]
        if number not in self._cache:
            file, group = self.groups[number]
            while len(self._cache) >= self.max_cached:
                self._cache.popitem(last=False)
            try:
                self._cache[number] = self.files[file].read(group, self.names_to_read)
            except BadSample as error:
                self._bad[number] = error
                raise
            while len(self._cache) > 2 and sum(table.nbytes for table in self._cache.values()) > CACHED_BYTES:
                self._cache.popitem(last=False)  # a footer may claim less than the true size
        self._cache.move_to_end(number)
        return self._cache[number]

    def row(self, index: int) -> Row:
        number, position, where = self._locate(index)
        try:
            return self._row(self._table(number), position, where, index)
        except BadSample as error:
            raise error.of_row(where) from None

    def _row(self, table: pa.Table, position: int, where: str, index: int | None) -> Row:
        """A row of a table; without an index its images are counted only."""
        record = self._record(table, position, where)
        try:
            cells = self._image_cells(table, position, where)
            images = [self._image(scalar, where, index, k) for k, scalar in enumerate(cells)]
            row, dropped = self.columns.reading(record, images, where, where)
            if index is None:
                return row
            if dropped:
                self._warn_dropped(where)
            return {**row, "image": [self._source(v, where, index, k) for k, v in enumerate(row["image"])]}
        except BadSample as error:
            raise error.of_row(self.columns.name_of(record, where)) from None

    def _record(self, table: pa.Table, position: int, where: str) -> dict[str, Any]:
        """The columns of a row except its images."""
        names = [name for name in table.column_names if name not in self._media_keys]
        return {name: value(cell(table, name, position, where), name, where) for name in names}

    def _warn_dropped(self, where: str) -> None:
        if not self._warned:
            log.warning("%s: gpt speaks first; that turn is not used, here and in later rows", where)
        self._warned = True

    @property
    def _media_keys(self) -> list[str]:
        return [*self.columns.image_keys, *self.columns.video_keys]

    def _image_cells(self, table: pa.Table, position: int, where: str) -> list[MediaCell]:
        """The images and then the videos of a row as scalars of their columns."""
        media: list[MediaCell] = []
        for keys, video in ((self.columns.image_keys, False), (self.columns.video_keys, True)):
            filled = [(key, images_of(cell(table, key, position, where, image=True))) for key in keys]
            filled = [(key, cells) for key, cells in filled if cells]
            if len(filled) > 1:
                what, (one, other) = ("videos" if video else "images"), (filled[0][0], filled[1][0])
                raise BadSample("schema", f"{where}: {what} under both {one!r} and {other!r}")
            media += [MediaCell(scalar, video) for _, cells in filled for scalar in cells]
        return media

    def _image(self, media: MediaCell, where: str, index: int | None, k: int) -> Any:
        """An image or video for `Columns.row`; its bytes stay in the table until they are read."""
        data, other = image_of(media.scalar, "video" if media.video else "image", where)
        if index is None:
            return RowVideo(_COUNTED) if media.video else _COUNTED
        if data is not None:
            stored = StoredImage(f"{where}, image {k}", partial(self.cell_image, index, k))
            return RowVideo(stored) if media.video else stored
        return video_value(other, where) if media.video else image_value(other, where)

    def _source(self, image: Any, where: str, index: int, k: int) -> ImageSource:
        return source_of(image, lambda value: self._file(value, where, index, k))

    def _file(self, image: Any, where: str, index: int, k: int) -> FileSource:
        if isinstance(image, StoredImage):
            return image
        if isinstance(image, InlineImage):
            return StoredImage(f"{where}, inline image {k}", partial(self.inline_image, index, k))
        if not self.folder.root:
            raise BadSample(
                "path",
                f"{where}: image {image!r:.80} is a file name without bytes; set images: to the folder of the images",
            )
        return self.folder.locate(image, where)

    def cell_image(self, index: int, k: int) -> bytes:
        """The bytes of the k-th image in a row's column."""
        number, position, where = self._locate(index)
        scalar = self._image_cells(self._table(number), position, where)[k].scalar
        data, _ = image_of(scalar, "image", where)
        assert data is not None
        if (size := data.as_buffer().size) > MAX_BYTES:
            raise BadSample("too-large", f"{where}, image {k}: {size} bytes; at most {MAX_BYTES} are read")
        return data.as_buffer().to_pybytes()

    def inline_image(self, index: int, k: int) -> bytes:
        """The bytes of a row's k-th image, an inline one. They are read again, so that rows in memory stay small."""
        number, position, where = self._locate(index)
        table = self._table(number)
        cells = self._image_cells(table, position, where)
        images = [self._image(scalar, where, index, j) for j, scalar in enumerate(cells)]
        image = self.columns.row(self._record(table, position, where), images, where, where)["image"][k]
        return image.decode(f"{where}, inline image {k}")

    def sizes(self) -> np.ndarray:
        """Reads all columns except image bytes."""
        sizes = np.zeros((len(self), 3), dtype=np.int64)
        for number, (f, group) in enumerate(self.groups):
            file = self.files[f]
            with suppress(BadSample):  # reported when training reads its rows
                table = file.read(group, file.without_bytes(self.names_to_read, self._media_keys))
                for position in range(len(table)):
                    with suppress(BadSample):
                        row = self._row(table, position, "", None)
                        videos = sum(isinstance(image, RowVideo) for image in row["image"])
                        sizes[self.starts[number] + position] = text_length(row), len(row["image"]), videos
        return sizes

    def digest(self) -> str:
        """Small files are hashed completely, with the images that they name; of others size, footer and samples."""
        files = [file.file for file in self.files]
        columns = sorted(self.columns.names.items()), sorted(self.ignore)
        local = [Path(file.name) for file in files if not is_remote(file.name)]
        if len(local) == len(files) and sum(file.size for file in files) <= digests.WHOLE_BYTES:
            images = (image for row in readable(self) for image in row["image"])
            named = [image for image in images if not _is_inside(image)]
            hashes = [sha256(path) for path in local]
            return digests.of("parquet", columns, hashes, digests.of_images(named))
        footers = [[file.file.size, file.footer_digest()] for file in self.files]
        return digests.of("parquet", columns, footers, [sampled_digest_of(path) for path in local])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict()}


def _is_inside(image: ImageSource) -> bool:
    """Whether an image or video is stored in the parquet file, whose hash covers it."""
    return isinstance(file_of(image), StoredImage)


def _columns(given: Mapping[Column, str], names: Sequence[str], where: str, ignore: Sequence[str]) -> Columns:
    for name in ignore:
        if name not in names:
            raise UserError(f"{where}: has no {name!r} to ignore{choices(name, names)}")
    try:
        return Columns(given, names, where, ignore)
    except UserError as error:
        raise UserError(f"{error}; map them with columns:") from None


def _difference(one: pa.Schema, other: pa.Schema) -> str:
    names = sorted({field.name for field in set(one) ^ set(other)})
    return ", ".join(names)
