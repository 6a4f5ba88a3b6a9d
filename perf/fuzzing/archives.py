"""Tars, parquet files and gzip files, damaged or hostile inside, through the readers of training and of benchmarks."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fuzzing import mutate, values
from fuzzing.rows import ROWS
from fuzzing.training import PNG, outcome_of, reader
from vlm_bench.files.json_files import read_json
from vlm_core.plugins.config import DatasetConfig
from vlm_train.data.parquet import ParquetConfig
from vlm_train.data.webdataset import WebDatasetConfig

TURNS = ROWS[0]["conversations"]
RECORDS: list[dict[str, Any]] = [
    {"id": "1", "image": {"bytes": PNG, "path": None}, "conversations": TURNS},
    {"id": "2", "image": None, "conversations": ROWS[2]["conversations"]},
]
MEMBERS: dict[str, Any] = {
    "1.png": PNG,
    "1.json": {"conversations": TURNS},
    "2.txt": "a red square",
    "2.jpg": PNG,
}
KINDS = [
    tarfile.REGTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.FIFOTYPE,
    tarfile.CHRTYPE,
    tarfile.DIRTYPE,
    b"S",
]
PACKED_MB = 64


class Examples:
    """One archive, mutated inside, as bytes, or both."""

    apart = True

    def __init__(self, work: Path) -> None:
        self.reader = reader(work)

    def example(self, rng: Random, folder: Path) -> Callable[[], str]:
        make = rng.choice((self._tar, self._tar, self._parquet, self._parquet, self._gzip))
        return make(rng, folder)

    def _rows(self, config: DatasetConfig) -> Callable[[], str]:
        return lambda: outcome_of(config, self.reader)

    def _tar(self, rng: Random, folder: Path) -> Callable[[], str]:
        content = _tar(rng)
        if rng.random() < 0.5:
            content = mutate.data(content, rng)
        if rng.random() < 0.05:
            content = gzip.compress(content)
        (folder / "x.tar").write_bytes(content)
        return self._rows(WebDatasetConfig(path=str(folder / "x.tar")))

    def _parquet(self, rng: Random, folder: Path) -> Callable[[], str]:
        content = _parquet(rng)
        if rng.random() < 0.6:
            content = mutate.data(content, rng)
        (folder / "x.parquet").write_bytes(content)
        return self._rows(ParquetConfig(path=str(folder / "x.parquet")))

    def _gzip(self, rng: Random, folder: Path) -> Callable[[], str]:
        data = json.dumps(
            mutate.mutated({"questions": [{"question_id": 1, "question": "?"}]}, Random(rng.random()))
            if rng.random() < 0.5
            else [1, 2]
        ).encode()
        content = gzip.compress(data) if rng.random() < 0.9 else _bomb(rng)
        path = folder / "questions.json.gz"
        path.write_bytes(mutate.data(content, rng) if rng.random() < 0.7 else content)
        return lambda: f"gzip {type(read_json(path)).__name__}"


def _bomb(rng: Random) -> bytes:
    """Zeros, or open brackets, of which the packed file shows nothing."""
    return gzip.compress(rng.choice((b"\0", b"[", b" ")) * PACKED_MB * 2**20, compresslevel=1)


def _tar(rng: Random) -> bytes:
    file = io.BytesIO()
    formats = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)
    with tarfile.open(fileobj=file, mode="w", format=rng.choice(formats)) as tar:
        for name, content in MEMBERS.items():
            info, data = _member(name, content, rng)
            try:
                tar.addfile(info, io.BytesIO(data))
            except (ValueError, UnicodeError, OverflowError):  # a name that this format can't hold
                continue
    return file.getvalue()


def _member(name: str, content: Any, rng: Random) -> tuple[tarfile.TarInfo, bytes]:
    if not isinstance(content, bytes | str) and rng.random() < 0.4:
        content = mutate.mutated(content, rng)
    data = content if isinstance(content, bytes) else _text(content).encode("utf-8", "replace")
    if rng.random() < 0.2:
        data = mutate.data(data, rng)
    odd = rng.random() < 0.15
    info = tarfile.TarInfo((values.text(rng)[:300] + rng.choice((name, ""))) if odd else name)
    info.size = len(data)
    if rng.random() < 0.1:
        info.type, info.linkname = rng.choice(KINDS), rng.choice(values.TEXTS)[:90]
        info.size = 0 if info.type != tarfile.REGTYPE else info.size
    if rng.random() < 0.05:
        info.pax_headers = {
            rng.choice(("path", "size", "GNU.sparse.map", "x")): values.text(rng)[:200] or "1"
        }
    return info, data


def _text(content: Any) -> str:
    try:
        return content if isinstance(content, str) else json.dumps(content)
    except (ValueError, RecursionError):
        return "[" * 3000


def _parquet(rng: Random) -> bytes:
    file = io.BytesIO()
    records = [mutate.mutated(record, rng) if rng.random() < 0.5 else record for record in RECORDS]
    try:
        table = pa.Table.from_pylist(
            [{str(k): v for k, v in r.items()} for r in records if isinstance(r, dict)]
        )
        options: dict[str, Any] = {
            "row_group_size": 1,
            "compression": rng.choice(("snappy", "none", "gzip", "zstd")),
        }
        pq.write_table(table, file, **options)
    except Exception:  # values that arrow has no type for
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(RECORDS), file)
    return file.getvalue()
