"""Hostile parquet files."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hostile_json import sparse


def table(path: Path, columns: dict[str, Any], **options: Any) -> None:
    pq.write_table(pa.table(columns), path, **{"compression": "zstd", "store_schema": False, **options})


def repeated(value: Any, count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), count), pa.array([value]))


def ids(count: int) -> list[str]:
    """Texts that take more bytes in the file than there are rows."""
    return [random.Random(i).randbytes(8).hex() for i in range(count)]


def long_list(path: Path) -> None:
    empty = pa.repeat(pa.scalar(""), 50_000_000)
    turns = pa.StructArray.from_arrays([empty, empty], ["from", "value"])
    table(path, {"conversations": pa.ListArray.from_arrays(pa.array([0, len(turns)], pa.int32()), turns)})


def repeated_turns(path: Path) -> None:
    turns = pa.StructArray.from_arrays(
        [repeated("human", 4000), repeated("x" * 1_000_000, 4000)], ["from", "value"]
    )
    table(
        path,
        {
            "conversations": pa.ListArray.from_arrays(pa.array([0, 1, 4000], pa.int32()), turns),
            "id": ["a", "b"],
        },
    )


def nested_lists(path: Path) -> None:
    inner = pa.ListArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), 30_000_001), pa.array([], pa.int8()))
    outer = pa.ListArray.from_arrays(pa.array([0, len(inner)], pa.int32()), inner)
    table(path, {"question": ["q"], "answer": ["a"], "system": outer})


def not_utf8(path: Path) -> None:
    table(
        path,
        {"question": ["??????", "fine"], "answer": ["a", "b"]},
        compression="none",
        write_statistics=False,
    )
    path.write_bytes(path.read_bytes().replace(b"??????", b"\xff\xfe\xff\xfe\xff\xfe"))


def footer_of(size: int) -> Callable[[Path], None]:
    return lambda path: sparse(path, size + 12, b"PAR1", struct.pack("<I", size) + b"PAR1")


PARQUET: dict[str, Callable[[Path], None]] = {
    "dictionary.parquet": lambda p: table(
        p, {"question": repeated("x" * 100_000, 1_000_000), "answer": repeated("y", 1_000_000)}
    ),
    "few.parquet": lambda p: table(
        p, {"question": repeated("x" * 1_000_000, 4000), "answer": repeated("y", 4000), "id": ids(4000)}
    ),
    "turns.parquet": repeated_turns,
    "shares.parquet": lambda p: table(
        p,
        {"question": ["x" * 1_000_000] * 400, "answer": ["a"] * 400, "id": ids(400)},
        use_dictionary=False,
        column_encoding={"question": "DELTA_BYTE_ARRAY"},
        write_statistics=False,
    ),
    "rows.parquet": lambda p: table(
        p,
        {"question": repeated("q", 300_000_000), "answer": repeated("a", 300_000_000)},
        row_group_size=300_000_000,
    ),
    "zeros.parquet": lambda p: table(
        p, {"question": ["\0" * 1_500_000_000], "answer": ["a"]}, use_dictionary=False, write_statistics=False
    ),
    "list.parquet": long_list,
    "lists.parquet": nested_lists,
    "delta.parquet": lambda p: table(
        p,
        {"question": ["x" * 100_000] * 20_000, "answer": ids(20_000)},
        use_dictionary=False,
        column_encoding={"question": "DELTA_BYTE_ARRAY"},
        write_statistics=False,
    ),
    "bytes.parquet": not_utf8,
    "types.parquet": lambda p: table(p, {"question": [1], "answer": [2.5]}, store_schema=True),
    "dates.parquet": lambda p: table(
        p,
        {"question": ["q"], "answer": ["a"], "id": pa.array([2**52], pa.timestamp("s", "Nowhere/Here"))},
        store_schema=True,
    ),
    "footer-gigabyte.parquet": footer_of(2**30),
    "columns.parquet": lambda p: table(p, {f"c{i}": [1] for i in range(30_000)}),
    "terabyte.parquet": lambda p: sparse(p, 2**40),
    "fifo.parquet": lambda p: os.mkfifo(p),
}
