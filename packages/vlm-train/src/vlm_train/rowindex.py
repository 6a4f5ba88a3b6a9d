"""The index of a data file: where each row stands, how long it is and what is wrong with it; made once, then mapped."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vlm_core.errors import BadSample, UserError
from vlm_core.folder import sha256
from vlm_core.rows import text_length
from vlm_train.image_values import InlineImage
from vlm_train.index_cache import fingerprint, kept
from vlm_train.jsonscan import rows_of_file
from vlm_train.layouts import record_row

VERSION = 3
KEEP_FROM = 32 * 2**20
"""Smaller files are indexed anew each time, within a second."""
ROW = np.dtype([("start", "<i8"), ("size", "<i4"), ("chars", "<i4"), ("images", "<i4"), ("crc", "<u4")])


@dataclass
class Index:
    """`rows` (of `ROW`, memory-mapped if large), faults `{row: (reason, message, id)}`, and the name of each image.

    `sha256` is that of the whole file.
    """

    rows: np.ndarray
    faults: dict[int, tuple[str, str, str]]
    names: bytes
    opened_by_gpt: int
    sha256: str

    def image_names(self) -> Iterator[tuple[int, Any, str]]:
        """(row, name, the row's id) of every image that is named, in order; only rows without a fault have any."""
        start = 0
        for row in np.flatnonzero(self.rows["images"]):
            for _ in range(self.rows["images"][row]):
                end = self.names.index(b"\0", start)
                if end > start:  # an image that the row holds has no name
                    yield int(row), *json.loads(self.names[start:end])
                start = end + 1


def index_of(path: Path, ignore: Sequence[str] = ()) -> Index:
    """The index of a `.json` or `.jsonl` file, from the cache if the file is large and has not changed.

    `ignore` are keys of rows that are left out. Raises `UserError` if the file can't be read, holds no rows, or is no
    list of JSON values.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < KEEP_FROM:
                return _build(file, path, ignore)
            known = f"rows {VERSION} {sorted(ignore)} ".encode() + fingerprint(file, path)
            name = hashlib.sha256(known).hexdigest()
            return kept(name, VERSION, str(path), lambda: _build(file, path, ignore), _write, _load)
    except FileNotFoundError:
        raise UserError(f"{path}: no such data file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _build(file: BinaryIO, path: Path, ignore: Sequence[str]) -> Index:
    before = fingerprint(file, path)
    found: list[tuple[int, int, int, int, int]] = []
    faults: dict[int, tuple[str, str, str]] = {}
    names = bytearray()
    opened = 0
    for start, size, value in rows_of_file(file, path):
        where = f"{path}: row {len(found)}"
        chars, images, name = 0, [], ""
        try:
            if isinstance(value, BadSample):
                raise value
            row, dropped = record_row(value, where, "", ignore=ignore)
            opened += dropped
            chars, images, name = text_length(row), row["image"], row["id"]
        except BadSample as error:
            faults[len(found)] = (error.reason, str(error), error.row)
        found.append((start, size, chars, len(images), zlib.crc32(os.pread(file.fileno(), size, start))))
        for image in images:
            names += (b"" if isinstance(image, InlineImage) else json.dumps([image, name]).encode()) + b"\0"
    if not found:
        raise UserError(f"{path}: holds no rows")
    index = Index(np.array(found, dtype=ROW), faults, bytes(names), opened, sha256(path))
    if fingerprint(file, path) != before:
        raise UserError(f"{path}: changed while it was read; start again")
    return index


def _write(index: Index, folder: Path) -> None:
    np.save(folder / "rows.npy", index.rows)
    (folder / "names").write_bytes(index.names)
    faults = {
        "faults": list(index.faults.items()),
        "opened_by_gpt": index.opened_by_gpt,
        "sha256": index.sha256,
    }
    (folder / "faults.json").write_text(json.dumps(faults))


def _load(kept: Path) -> Index:
    facts = json.loads((kept / "faults.json").read_text())
    faults = {row: (reason, message, name) for row, (reason, message, name) in facts["faults"]}
    rows = np.load(kept / "rows.npy", mmap_mode="r")
    return Index(rows, faults, (kept / "names").read_bytes(), facts["opened_by_gpt"], facts["sha256"])
