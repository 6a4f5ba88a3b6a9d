"""One parquet file: its row groups one by one, and which of their columns hold what."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vlm_core.errors import BadSample, UserError
from vlm_train.storage import Ranges, Store


class ParquetFile:
    """A parquet file of a dataset; a copy in another process reads the footer anew."""

    def __init__(self, name: str) -> None:
        self.store = Store(name)
        self._footer: Any = None
        footer = self.footer()
        groups = range(footer.num_row_groups)
        self.rows = [footer.row_group(i).num_rows for i in groups]
        self.bytes = [footer.row_group(i).total_byte_size for i in groups]
        self.schema: pa.Schema = footer.schema.to_arrow_schema()

    def footer(self) -> pq.FileMetaData:
        """Raises `UserError` for what is no parquet file."""
        if self._footer is None:
            try:
                self._footer = pq.ParquetFile(pa.PythonFile(Ranges(self.store), "r")).metadata
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{self.store.name}: no parquet file, or half of one: {error}") from None
        return self._footer

    def footer_digest(self) -> str:
        """Of the footer's bytes, which say where every chunk of every column stands and what its limits are."""
        length = int.from_bytes(self.store.read(self.store.size - 8, 4), "little")
        return hashlib.sha256(self.store.read(self.store.size - 8 - length, length)).hexdigest()

    def read(self, group: int, columns: list[str]) -> pa.Table:
        """The columns (or their parts, `image.path`) of a row group; raises `BadSample` if its bytes are damaged.

        The storage is asked once, for the stretch that holds them; what is wrong after that is the data's fault.
        """
        footer = self.footer()
        chunks = footer.row_group(group)
        wanted = [
            chunk
            for chunk in (chunks.column(i) for i in range(chunks.num_columns))
            if any(chunk.path_in_schema == c or chunk.path_in_schema.startswith(f"{c}.") for c in columns)
        ]
        starts = [c.dictionary_page_offset or c.data_page_offset for c in wanted]
        first = min(starts)
        size = max(s + c.total_compressed_size for s, c in zip(starts, wanted, strict=True)) - first
        source = Ranges(self.store, first, size)
        try:
            opened = pq.ParquetFile(pa.PythonFile(source, "r"), metadata=footer, pre_buffer=False)
            return opened.read_row_group(group, columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            text = f"{self.store.name}: row group {group} cannot be decoded: {error}"
            raise BadSample("damaged", text) from None

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
        return {**self.__dict__, "_footer": None}
