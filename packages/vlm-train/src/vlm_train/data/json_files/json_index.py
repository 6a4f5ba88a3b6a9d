"""The index of a JSON data file: position, length and fault of each row; built once, then memory-mapped."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vlm_core.errors import BadSample, UserError
from vlm_core.io.files import open_regular, read_bytes
from vlm_core.io.manifest import sha256
from vlm_core.markup.printable import printable
from vlm_core.rows import text_length
from vlm_train.data.conversation.columns import record_row
from vlm_train.data.conversation.image_values import InlineImage
from vlm_train.data.conversation.video_values import RowVideo, value_of
from vlm_train.data.index_cache import (
    Faults,
    are_consecutive,
    cached_index,
    fingerprint,
    load_faults,
    load_table,
    note_fault,
)
from vlm_train.data.json_files.json_reader import rows_of_file

VERSION = 6
MIN_CACHED_BYTES = 32 * 2**20
"""Smaller files are indexed in each run, within a second."""
MAX_NAMES = 2**31
_FILES = ("rows.npy", "names", "faults.json")
ROW = np.dtype(
    [
        ("start", "<i8"),
        ("size", "<i4"),
        ("chars", "<i4"),
        ("images", "<i4"),
        ("videos", "<i4"),
        ("crc", "<u4"),
    ]
)
"""Of a row: its bytes in the file, characters, images and videos, videos alone, and a checksum."""


@dataclass
class Index:
    """`rows` (dtype `ROW`, memory-mapped if large), faults `{row: (reason, message, id)}`, and the name of each image.

    `opened_by_gpt` counts rows whose first turn is gpt's and is not read. `sha256` is that of the whole file.
    """

    rows: np.ndarray
    faults: Faults
    names: bytes
    opened_by_gpt: int
    sha256: str

    def image_names(self) -> Iterator[tuple[int, Any, str]]:
        """(row, name, the row's id) of every image given by name, in order; rows with a fault have none."""
        start = 0
        for row in np.flatnonzero(self.rows["images"]):
            for _ in range(self.rows["images"][row]):
                end = self.names.index(b"\0", start)
                if end > start:  # an inline image has no name
                    name, row_id = json.loads(self.names[start:end])
                    yield int(row), name, row_id
                start = end + 1


def index_of(path: Path, ignore: Sequence[str] = ()) -> Index:
    """The index of a `.json` or `.jsonl` file, from the cache if the file is large and has not changed.

    Keys in `ignore` are not read. Raises `UserError` if the file can't be read, has no rows, or is not a list of JSON
    values.
    """
    if not os.path.lexists(path):
        raise UserError(f"{printable(path)}: no such data file")
    if path.is_dir():
        raise UserError(f"{path}: cannot be read: Is a directory; name the data file")
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size < MIN_CACHED_BYTES:
            return _build(file, path, ignore)
        key = f"rows {VERSION} {sorted(ignore)} ".encode() + fingerprint(file, path)
        name, load = hashlib.sha256(key).hexdigest(), partial(_load, size)
        return cached_index(
            name, VERSION, str(path), lambda: _build(file, path, ignore), _write, load, _FILES
        )


def _build(file: BinaryIO, path: Path, ignore: Sequence[str]) -> Index:
    before = fingerprint(file, path)
    columns = array("q")
    count = opened_by_gpt = 0
    faults: Faults = {}
    names = bytearray()
    for start, size, value in rows_of_file(file, path):
        where = f"{path}: row {count}"
        chars, images, name = 0, [], ""
        try:
            if isinstance(value, BadSample):
                raise value
            row, dropped = record_row(value, where, "", ignore=ignore)
            opened_by_gpt += dropped
            chars, images, name = text_length(row), row["image"], row["id"]
        except BadSample as error:
            note_fault(faults, count, error, error.row, str(path))
        videos = sum(isinstance(image, RowVideo) for image in images)
        crc = zlib.crc32(os.pread(file.fileno(), size, start))
        columns.extend((start, size, chars, len(images), videos, crc))
        count += 1
        for image in images:
            named = value_of(image)
            names += (b"" if isinstance(named, InlineImage) else json.dumps([named, name]).encode()) + b"\0"
    if not columns:
        raise UserError(f"{path}: has no rows")
    rows = np.empty(count, ROW)
    for name, column in zip(ROW.names or (), np.array(columns).reshape(count, -1).T, strict=True):
        rows[name] = column
    index = Index(rows, faults, bytes(names), opened_by_gpt, sha256(path))
    if fingerprint(file, path) != before:
        raise UserError(f"{path}: changed while it was read; run the command again")
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


def _load(size: int, folder: Path) -> Index:
    """The index of a file of `size` bytes; raises `UserError` for one that contradicts itself or the file."""
    rows = load_table(folder / "rows.npy", ROW)
    facts, faults = load_faults(folder / "faults.json", len(rows))
    names = read_bytes(folder / "names", MAX_NAMES)
    has_facts = isinstance(facts.get("sha256"), str) and type(facts.get("opened_by_gpt")) is int
    ranges = len(rows) > 0 and are_consecutive(rows["start"], rows["size"], size)
    images = (rows["images"] >= 0).all() and rows["images"].sum() == names.count(b"\0")
    images &= ((rows["videos"] >= 0) & (rows["videos"] <= rows["images"])).all()
    if not (has_facts and ranges and images):
        raise UserError(f"{folder}: not an index of this file")
    return Index(rows, faults, names, facts["opened_by_gpt"], facts["sha256"])
