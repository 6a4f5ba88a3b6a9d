"""One parquet file: its row groups one by one, and which of their columns hold what."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vlm_core.errors import BadSample, UserError
from vlm_core.markup.printable import printable
from vlm_train.data.parquet_files.parquet_cells import weight
from vlm_train.data.parquet_files.parquet_pages import Chunk, Content, chunks, content, decoded
from vlm_train.data.storage import Ranges, Store

MAX_FOOTER, MAX_ITEMS = 32 * 2**20, 100_000
"""Bytes of a footer, and items of any list in it."""
MAX_GROUP = 2**30
"""Bytes of the columns of a row group that are read, in the file and decoded."""
REPEATED, PIECE = 256 * 2**20, 64 * 2**20
"""A column whose dictionary could be repeated to so many bytes stays a dictionary; one whose values share beginnings is
decoded in pieces of about so many."""
BATCH = 65_536
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT96": 12}


class _Plan(NamedTuple):
    """How a row group can be decoded: so many rows at a time, and which columns as dictionaries."""

    batch: int
    dictionaries: list[str]


class ParquetFile:
    """A parquet file of a dataset; a copy in another process reads the footer anew."""

    def __init__(self, name: str) -> None:
        self.store = Store(name)
        self._footer: Any = None
        self._footer_data = b""
        self._chunks: list[list[Chunk]] | None = None
        footer = self.footer()
        try:
            groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
            self.rows = [group.num_rows for group in groups]
            self.bytes = [group.total_byte_size for group in groups]
            self.schema: pa.Schema = footer.schema.to_arrow_schema()
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            raise self._no_parquet(error) from None
        if min(self.rows, default=0) < 0 or sum(self.rows) > self.store.size:
            raise UserError(
                f"{name}: says that it holds {sum(self.rows)} rows in {self.store.size} bytes; these are no rows"
            )

    def footer(self) -> pq.FileMetaData:
        """Raises `UserError` for what is no parquet file."""
        if self._footer is None:
            self._footer_data = self._read_footer()
            size = len(self._footer_data).to_bytes(4, "little")
            alone = pa.BufferReader(b"PAR1" + self._footer_data + size + b"PAR1")
            try:
                self._footer = _opened(alone).metadata
            except (pa.ArrowException, OSError, ValueError) as error:
                raise self._no_parquet(error) from None
        return self._footer

    def _no_parquet(self, error: Exception) -> UserError:
        reason = printable(error, 300, lines=True)
        return UserError(f"{self.store.name}: no parquet file, or half of one: {reason}")

    def _read_footer(self) -> bytes:
        """It says where every chunk of every column stands and what its limits are."""
        tail = self.store.read(self.store.size - 8, 8) if self.store.size >= 12 else b""
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != b"PAR1" or length > self.store.size - 12:
            raise self._no_parquet(ValueError("its end is not that of one, or of an encrypted one"))
        if length > MAX_FOOTER:
            raise UserError(f"{self.store.name}: a footer of {length} bytes; at most {MAX_FOOTER} are read")
        return self.store.read(self.store.size - 8 - length, length)

    def footer_digest(self) -> str:
        return hashlib.sha256(self._read_footer()).hexdigest()

    def read(self, group: int, columns: list[str]) -> pa.Table:
        """The columns (or their parts, `image.path`) of a row group.

        Raises `BadSample` if its bytes are damaged, or take more than `MAX_GROUP`. The storage is asked once, for the
        stretch that holds them; what is wrong after that is the data's fault.
        """
        footer = self.footer()
        where = f"{self.store.name}: row group {group}"
        wanted = self._wanted(columns)
        places = self._places(group, wanted, where)
        first = min(place.start for place in places)
        size = max(place.end for place in places) - first
        _check_size(size, where)
        source = Ranges(self.store, first, size)
        try:
            pages = [content(source.held[start - first : end - first]) for start, end in places]
            plan = self._plan(wanted, pages, where)
            opened = _opened(pa.PythonFile(source, "r"), metadata=footer, read_dictionary=plan.dictionaries)
            table = _decoded(opened, group, columns, plan.batch, where)
        except (UserError, MemoryError):
            raise
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            text = f"{where} cannot be decoded: {printable(error, 300, lines=True)}"
            raise BadSample("damaged", text) from None
        if len(table) != self.rows[group]:
            text = f"{len(table)} rows instead of {self.rows[group]}"
            raise BadSample("damaged", f"{where} cannot be decoded: {text}")
        return table

    def _wanted(self, columns: list[str]) -> list[int]:
        """The numbers of `columns` and of their parts."""
        schema = self.footer().schema
        paths = [schema.column(i).path for i in range(len(schema))]
        return [
            i for i, path in enumerate(paths) if any(path == c or path.startswith(f"{c}.") for c in columns)
        ]

    def _places(self, group: int, wanted: list[int], where: str) -> list[Chunk]:
        """Where columns of a row group stand; raises `BadSample` if they are not inside the file."""
        if self._chunks is None:
            try:
                self._chunks = chunks(memoryview(self._footer_data))
            except ValueError as error:
                raise self._no_parquet(error) from None
            self._footer_data = b""
        places = self._chunks[group] if group < len(self._chunks) else []
        if len(places) == len(self.footer().schema):
            found = [places[number] for number in wanted]
            if all(0 <= start <= end <= self.store.size for start, end in found):
                return found
        raise BadSample("damaged", f"{where} cannot be decoded: its columns are not inside the file")

    def _plan(self, wanted: list[int], pages: list[Content], where: str) -> _Plan:
        """How to decode columns so that memory is bounded whatever they repeat; raises `BadSample` if none is known."""
        schema, size, batch, dictionaries = self.footer().schema, 0, BATCH, []
        for number, page in zip(wanted, pages, strict=True):
            column = schema.column(number)
            width = _WIDTHS.get(column.physical_type, 8)
            size += decoded(page, max(column.length or 0, width))
            if column.physical_type != "BYTE_ARRAY":
                continue
            if page.values * page.dictionary > REPEATED:
                dictionaries.append(column.path)
            if page.values * page.shared > PIECE:
                batch = min(batch, max(1, PIECE // page.shared))
                if column.max_repetition_level:
                    size += page.values * page.shared
        _check_size(size, where)
        return _Plan(batch, dictionaries)

    def without_bytes(self, columns: list[str], images: Collection[str]) -> list[str]:
        """`columns` with the bytes of the columns `images` left out, where a file keeps them apart from their names."""
        found = []
        for i in range(self.footer().schema.__len__()):
            path = self.footer().schema.column(i).path
            if any(path == c or path.startswith(f"{c}.") for c in columns):
                found.append(path)
        of_image = {path for path in found if path.endswith(".bytes") and path.split(".")[0] in images}
        return [path for path in found if path not in of_image or f"{path[:-5]}path" not in found]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_footer": None, "_footer_data": b""}


def _opened(source: Any, **options: Any) -> pq.ParquetFile:
    return pq.ParquetFile(
        source,
        pre_buffer=False,
        page_checksum_verification=True,
        thrift_string_size_limit=MAX_FOOTER,
        thrift_container_size_limit=MAX_ITEMS,
        **options,
    )


def _check_size(size: int, where: str) -> None:
    if size > MAX_GROUP:
        advice = "write the file with smaller row groups (row_group_size)"
        raise BadSample("too-large", f"{where}: {size} bytes; at most {MAX_GROUP} are read: {advice}")


def _decoded(file: pq.ParquetFile, group: int, columns: list[str], batch: int, where: str) -> pa.Table:
    """The columns of a row group, decoded piece by piece until they are too large."""
    found, size, schema = [], 0, None
    for rows in file.iter_batches(batch, row_groups=[group], columns=columns, use_threads=False):
        size += sum(weight(column)[1] for column in rows.columns)
        _check_size(size, where)
        found.append(rows)
        schema = rows.schema
    if schema is None:
        raise ValueError("no rows")
    return pa.Table.from_batches(found, schema)
