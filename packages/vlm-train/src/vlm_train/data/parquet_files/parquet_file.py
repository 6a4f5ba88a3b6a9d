"""Reads one parquet file by row group, with limits on footer, pages and decoded size."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vlm_core.errors import BadSample, UserError
from vlm_core.markup.printable import printable
from vlm_train.data.parquet_files.parquet_cells import weight
from vlm_train.data.parquet_files.parquet_pages import Chunk, PageSizes, chunks, decoded_bytes, page_sizes
from vlm_train.data.storage import BufferedRange, RandomAccessFile

MAX_FOOTER, MAX_ITEMS = 32 * 2**20, 100_000
"""Bytes of a footer, and items of any list in it."""
MAX_GROUP = 2**30
"""Bytes of the columns of a row group that are read, in the file and decoded."""
DICTIONARY_BYTES = 256 * 2**20
"""A column that could decode to more bytes by repeating dictionary entries stays dictionary-encoded."""
DELTA_BATCH_BYTES = 64 * 2**20
"""A column with delta-encoded strings (shared prefixes) is decoded in batches of about so many bytes."""
BATCH_ROWS = 65_536
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT96": 12}


class _DecodeOptions(NamedTuple):
    """How to decode a row group in bounded memory: rows per batch, and columns kept dictionary-encoded."""

    batch_rows: int
    dictionaries: list[str]


class ParquetFile:
    """A parquet file of a dataset; a pickled copy reads the footer again."""

    def __init__(self, name: str) -> None:
        self.file = RandomAccessFile(name)
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
            raise self._invalid(error) from None
        if min(self.rows, default=0) < 0 or sum(self.rows) > self.file.size:
            raise UserError(f"{name}: its footer claims {sum(self.rows)} rows in {self.file.size} bytes")

    def footer(self) -> pq.FileMetaData:
        """The metadata of the file; raises `UserError` if it is not a parquet file."""
        if self._footer is None:
            self._footer_data = self._read_footer()
            size = len(self._footer_data).to_bytes(4, "little")
            footer_only = pa.BufferReader(b"PAR1" + self._footer_data + size + b"PAR1")
            try:
                self._footer = _open(footer_only).metadata
            except (pa.ArrowException, OSError, ValueError) as error:
                raise self._invalid(error) from None
        return self._footer

    def _invalid(self, error: Exception) -> UserError:
        reason = printable(error, 300, lines=True)
        return UserError(f"{self.file.name}: not a parquet file, or truncated: {reason}")

    def _read_footer(self) -> bytes:
        tail = self.file.read(self.file.size - 8, 8) if self.file.size >= 12 else b""
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != b"PAR1" or length > self.file.size - 12:
            raise self._invalid(ValueError("no valid footer at its end; encrypted files are not supported"))
        if length > MAX_FOOTER:
            raise UserError(f"{self.file.name}: a footer of {length} bytes; at most {MAX_FOOTER} are read")
        return self.file.read(self.file.size - 8 - length, length)

    def footer_digest(self) -> str:
        return hashlib.sha256(self._read_footer()).hexdigest()

    def read(self, group: int, columns: list[str]) -> pa.Table:
        """The columns of a row group, or fields of them such as `image.path`.

        Raises `BadSample` if the row group is damaged or larger than `MAX_GROUP`. The storage is read once, for the
        byte range of all columns; any later error is a fault of the data.
        """
        footer = self.footer()
        where = f"{self.file.name}: row group {group}"
        numbers = self._column_numbers(columns)
        ranges = self._byte_ranges(group, numbers, where)
        first = min(chunk.start for chunk in ranges)
        size = max(chunk.end for chunk in ranges) - first
        _check_size(size, where)
        source = BufferedRange(self.file, first, size)
        try:
            pages = [page_sizes(source.buffer[start - first : end - first]) for start, end in ranges]
            options = self._decode_options(numbers, pages, where)
            file = _open(pa.PythonFile(source, "r"), metadata=footer, read_dictionary=options.dictionaries)
            table = _decode(file, group, columns, options.batch_rows, where)
        except (UserError, MemoryError):
            raise
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            text = f"{where} cannot be decoded: {printable(error, 300, lines=True)}"
            raise BadSample("damaged", text) from None
        if len(table) != self.rows[group]:
            text = f"{len(table)} rows instead of {self.rows[group]}"
            raise BadSample("damaged", f"{where} cannot be decoded: {text}")
        return table

    def _column_numbers(self, columns: list[str]) -> list[int]:
        """The numbers of the leaf columns of `columns`."""
        schema = self.footer().schema
        paths = [schema.column(i).path for i in range(len(schema))]
        return [
            i for i, path in enumerate(paths) if any(path == c or path.startswith(f"{c}.") for c in columns)
        ]

    def _byte_ranges(self, group: int, numbers: list[int], where: str) -> list[Chunk]:
        """The byte ranges of columns of a row group; raises `BadSample` if they are not inside the file."""
        if self._chunks is None:
            try:
                self._chunks = chunks(memoryview(self._footer_data))
            except ValueError as error:
                raise self._invalid(error) from None
            self._footer_data = b""
        ranges = self._chunks[group] if group < len(self._chunks) else []
        if len(ranges) == len(self.footer().schema):
            selected = [ranges[number] for number in numbers]
            if all(0 <= start <= end <= self.file.size for start, end in selected):
                return selected
        raise BadSample("damaged", f"{where} cannot be decoded: its columns are not inside the file")

    def _decode_options(self, numbers: list[int], pages: list[PageSizes], where: str) -> _DecodeOptions:
        """Options that bound memory for repeated values; raises `BadSample` if the decoded size is beyond the limit."""
        schema, size, batch_rows, dictionaries = self.footer().schema, 0, BATCH_ROWS, []
        for number, sizes in zip(numbers, pages, strict=True):
            column = schema.column(number)
            width = _WIDTHS.get(column.physical_type, 8)
            size += decoded_bytes(sizes, max(column.length or 0, width))
            if column.physical_type != "BYTE_ARRAY":
                continue
            if sizes.values * sizes.dictionary > DICTIONARY_BYTES:
                dictionaries.append(column.path)
            if sizes.values * sizes.delta_page > DELTA_BATCH_BYTES:
                batch_rows = min(batch_rows, max(1, DELTA_BATCH_BYTES // sizes.delta_page))
                if column.max_repetition_level:
                    size += sizes.values * sizes.delta_page
        _check_size(size, where)
        return _DecodeOptions(batch_rows, dictionaries)

    def without_bytes(self, columns: list[str], images: Collection[str]) -> list[str]:
        """The leaf columns of `columns` without the bytes of the columns `images`, where names are stored apart."""
        schema = self.footer().schema
        paths = [schema.column(number).path for number in self._column_numbers(columns)]
        image_bytes = {path for path in paths if path.endswith(".bytes") and path.split(".")[0] in images}
        return [path for path in paths if path not in image_bytes or f"{path[:-5]}path" not in paths]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_footer": None, "_footer_data": b""}


def _open(source: Any, **options: Any) -> pq.ParquetFile:
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


def _decode(file: pq.ParquetFile, group: int, columns: list[str], batch_rows: int, where: str) -> pa.Table:
    """The columns of a row group, decoded in batches; raises `BadSample` as soon as they exceed `MAX_GROUP`."""
    batches, size, schema = [], 0, None
    for batch in file.iter_batches(batch_rows, row_groups=[group], columns=columns, use_threads=False):
        size += sum(weight(column)[1] for column in batch.columns)
        _check_size(size, where)
        batches.append(batch)
        schema = batch.schema
    if schema is None:
        raise ValueError("no rows")
    return pa.Table.from_batches(batches, schema)
