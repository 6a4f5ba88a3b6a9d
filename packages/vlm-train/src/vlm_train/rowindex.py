"""The index of a data file: where each row stands, how long it is and what is wrong with it; made once, then mapped."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vlm_core.errors import BadSample, UserError
from vlm_core.folder import write_folder
from vlm_core.rows import text_length
from vlm_train.image_values import InlineImage
from vlm_train.jsonscan import rows_of_file
from vlm_train.layouts import record_row

VERSION = 2
KEEP_FROM = 32 * 2**20
"""Smaller files are indexed anew each time, within a second."""
ROW = np.dtype([("start", "<i8"), ("size", "<i4"), ("chars", "<i4"), ("images", "<i4")])
log = logging.getLogger(__name__)


@dataclass
class Index:
    """`rows` (of `ROW`, memory-mapped if large), faults `{row: (reason, message, id)}`, and the name of each image."""

    rows: np.ndarray
    faults: dict[int, tuple[str, str, str]]
    names: bytes
    opened_by_gpt: int

    def image_names(self) -> Iterator[tuple[int, Any, str]]:
        """(row, name, the row's id) of every image that is named, in order; only rows without a fault have any."""
        start = 0
        for row in np.flatnonzero(self.rows["images"]):
            for _ in range(self.rows["images"][row]):
                end = self.names.index(b"\0", start)
                if end > start:  # an image that the row holds has no name
                    yield int(row), *json.loads(self.names[start:end])
                start = end + 1


def cache_folder() -> Path:
    """`VLM_CACHE`, or `vlm` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("VLM_CACHE") or Path(base) / "vlm") / "rows"


def fingerprint(file: BinaryIO, path: Path) -> str:
    """Of name, size, time of change and 64 pieces of the file's bytes."""
    facts = os.fstat(file.fileno())
    digest = hashlib.sha256(repr((VERSION, str(path), facts.st_size, facts.st_mtime_ns)).encode())
    for i in range(64):
        digest.update(os.pread(file.fileno(), 4096, max(0, facts.st_size - 4096) * i // 63))
    return digest.hexdigest()


def shared(table: np.ndarray) -> Path | np.ndarray:
    """What to pickle of an index: the file that is mapped, so that processes of a machine share it."""
    return Path(table.filename) if isinstance(table, np.memmap) and table.filename else table


def opened(table: Path | np.ndarray) -> np.ndarray:
    """The index that `shared` gave."""
    return np.load(table, mmap_mode="r") if isinstance(table, Path) else table


def index_of(path: Path, ignore: Sequence[str] = ()) -> Index:
    """The index of a `.json` or `.jsonl` file, from the cache if the file is large and has not changed.

    `ignore` are keys of rows that are left out. Raises `UserError` if the file can't be read, holds no rows, or is no
    list of JSON values.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < KEEP_FROM:
                return _build(file, path, ignore)
            known = repr((fingerprint(file, path.resolve()), sorted(ignore)))
            kept = cache_folder() / hashlib.sha256(known.encode()).hexdigest()
            if not kept.exists():
                log.info("%s: indexing its rows, once", path)
                index = _build(file, path, ignore)
                keep(kept, partial(_write, index))
            return _load(kept)
    except FileNotFoundError:
        raise UserError(f"{path}: no such data file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _build(file: BinaryIO, path: Path, ignore: Sequence[str]) -> Index:
    found: list[tuple[int, int, int, int]] = []
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
        found.append((start, size, chars, len(images)))
        for image in images:
            names += (b"" if isinstance(image, InlineImage) else json.dumps([image, name]).encode()) + b"\0"
    if not found:
        raise UserError(f"{path}: holds no rows")
    return Index(np.array(found, dtype=ROW), faults, bytes(names), opened)


def _write(index: Index, folder: Path) -> None:
    np.save(folder / "rows.npy", index.rows)
    (folder / "names").write_bytes(index.names)
    faults = {"faults": list(index.faults.items()), "opened_by_gpt": index.opened_by_gpt}
    (folder / "faults.json").write_text(json.dumps(faults))


def keep(kept: Path, write: Callable[[Path], None]) -> None:
    """Write an index under its name in the cache, whole or not at all."""
    try:
        write_folder(kept, write, {"version": VERSION})
    except UserError:
        if not kept.exists():  # unless another process was as quick
            raise


def _load(kept: Path) -> Index:
    facts = json.loads((kept / "faults.json").read_text())
    faults = {row: (reason, message, name) for row, (reason, message, name) in facts["faults"]}
    rows = np.load(kept / "rows.npy", mmap_mode="r")
    return Index(rows, faults, (kept / "names").read_bytes(), facts["opened_by_gpt"])
