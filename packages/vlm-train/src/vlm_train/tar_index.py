"""The index of tar shards: where each sample's words and pictures stand and what is wrong with it; made once."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlm_core.errors import BadSample, UserError
from vlm_core.files import MAX_BYTES
from vlm_train import rowindex
from vlm_train.index_cache import fingerprint, kept
from vlm_train.jsonscan import MAX_ROW, loads
from vlm_train.layouts import Column, Columns
from vlm_train.tar_walk import BLOCK, Member, TarSample, printable, samples

VERSION = 2
ROW = np.dtype(
    [("shard", "<i4"), ("start", "<i8"), ("size", "<i4"), ("caption", "?"), ("chars", "<i4"),
     ("picture", "<i8"), ("pictures", "<i4"), ("key", "<i8"), ("length", "<i4"), ("crc", "<u4")]
)  # fmt: skip
PICTURE = np.dtype([("start", "<i8"), ("size", "<i8"), ("name", "<i8"), ("length", "<i4"), ("crc", "<u4")])


@dataclass
class TarIndex:
    """`rows` (of `ROW`), `pictures` (of `PICTURE`), the text that their names are pieces of, and faults by row."""

    rows: np.ndarray
    pictures: np.ndarray
    names: np.ndarray
    faults: dict[int, tuple[str, str]] = field(default_factory=dict)


def record_of(data: bytes, caption: bool, where: str) -> Mapping[str, Any]:
    """What a sample's `.json` holds, or its `.txt` as a caption; raises `BadSample`."""
    if caption:
        try:
            return {"caption": data.decode().strip()}
        except UnicodeDecodeError as error:
            raise BadSample("schema", f"{where}: no text: {error}") from None
    found = loads(data, where)
    if not isinstance(found, dict):
        raise BadSample("schema", f"{where}: expected a mapping, got {found!r:.60}")
    return found


def row_of(record: Mapping[str, Any], given: Mapping[Column, str], pictures: Sequence[Any], where: str,
           name: str) -> dict[str, Any]:  # fmt: skip
    """A sample's row; raises `BadSample`. Each `.json` may have a layout of its own."""
    try:
        columns = Columns(given, record.keys(), where)
    except UserError as error:
        raise BadSample("schema", str(error)) from None
    return columns.row(record, pictures, where, name)


def index_of(shards: Sequence[str], given: Mapping[Column, str]) -> TarIndex:
    """The index of all shards, from the cache if they are large and have not changed. Raises `UserError`."""
    digest, size = hashlib.sha256(repr(("shards", VERSION, sorted(given.items()))).encode()), 0
    for shard in shards:
        try:
            with open(shard, "rb") as file:
                digest.update(fingerprint(file, Path(shard)))
                size += os.fstat(file.fileno()).st_size
        except OSError as error:
            raise UserError(f"{shard}: cannot be read: {error.strerror or error}") from None
    if size < rowindex.KEEP_FROM:
        return _build(shards, given)
    what = f"{shards[0]}, … ({len(shards)} shards)"
    return kept(digest.hexdigest(), VERSION, what, lambda: _build(shards, given), _write, _load)


def _build(shards: Sequence[str], given: Mapping[Column, str]) -> TarIndex:
    build, tables = _Builder(given), []
    for number, shard in enumerate(shards):
        with open(shard, "rb") as file:
            for sample in samples(file, shard):
                build.add(number, sample, shard, file)
        tables.append(build.taken())
    if not build.count:
        raise UserError(f"{shards[0]}: holds no samples; expected key.jpg beside key.json or key.txt")
    names = np.frombuffer(bytes(build.names), dtype=np.uint8)
    rows, pictures = (np.concatenate(column) for column in zip(*tables, strict=True))
    return TarIndex(rows, pictures, names, build.faults)


class _Builder:
    """Collects rows and pictures; `taken` turns them into arrays, which are a tenth in size, shard by shard."""

    def __init__(self, given: Mapping[Column, str]) -> None:
        self.given, self.count, self.pictured = given, 0, 0
        self.rows: list[tuple[Any, ...]] = []
        self.pictures: list[tuple[int, int, int, int, int]] = []
        self.names = bytearray()
        self.faults: dict[int, tuple[str, str]] = {}

    def taken(self) -> tuple[np.ndarray, np.ndarray]:
        arrays = np.array(self.rows, dtype=ROW), np.array(self.pictures, dtype=PICTURE)
        self.rows, self.pictures = [], []
        return arrays

    def add(self, shard: int, sample: TarSample, where: str, file: Any) -> None:
        key, pictures = self._name(sample.key), []
        text, caption, chars, crc = Member("", 0, 0), False, 0, 0
        try:
            if sample.fault:
                raise sample.fault
            text, caption, chars, crc = self._words(sample, where, file)
            pictures = [(p.start, p.size, *self._name(p.name), _header_crc(file, p)) for p in sample.pictures]
        except BadSample as error:
            self.faults[self.count] = (error.reason, str(error))
        place = shard, text.start, text.size, caption, chars, self.pictured, len(pictures), *key, crc
        self.rows.append(place)
        self.pictures += pictures
        self.count, self.pictured = self.count + 1, self.pictured + len(pictures)

    def _words(self, sample: TarSample, where: str, file: Any) -> tuple[Member, bool, int, int]:
        """The member that holds a sample's words, whether it is a caption, how many characters, and its CRC."""
        where = f"{where}: {printable(sample.key)}"
        if large := next((p for p in sample.pictures if p.size > MAX_BYTES), None):
            raise BadSample("too-large", f"{where}: {large.size} bytes; at most {MAX_BYTES} are read")
        for extension in sorted(sample.texts):  # json before txt
            member, caption = sample.texts[extension], extension == "txt"
            if member.size > MAX_ROW:
                raise BadSample(
                    "too-large", f"{where}: {member.size} bytes of text; at most {MAX_ROW} are read"
                )
            data = os.pread(file.fileno(), member.size, member.start)
            record = record_of(data, caption, where)
            if not caption and "txt" in sample.texts and not self.given and not Columns.fit(record):
                continue  # facts about a picture, whose words are in .txt
            row = row_of(record, {} if caption else self.given, sample.pictures, where, "")
            chars = sum(len(turn["value"]) for turn in row["conversations"])
            return member, caption, chars, zlib.crc32(data)
        raise BadSample("schema", f"{where}: has neither .json nor .txt")

    def _name(self, name: str) -> tuple[int, int]:
        data = printable(name).encode()
        self.names += data
        return len(self.names) - len(data), len(data)


def _header_crc(file: Any, member: Member) -> int:
    """Of the header block in front of a member: name, size and time; whoever reads the member compares it."""
    return zlib.crc32(os.pread(file.fileno(), BLOCK, member.start - BLOCK))


def _write(index: TarIndex, folder: Path) -> None:
    for name in ("rows", "pictures", "names"):
        np.save(folder / f"{name}.npy", getattr(index, name))
    (folder / "faults.json").write_text(json.dumps(list(index.faults.items())))


def _load(kept: Path) -> TarIndex:
    arrays = (np.load(kept / f"{name}.npy", mmap_mode="r") for name in ("rows", "pictures", "names"))
    faults = {
        row: (reason, message) for row, (reason, message) in json.loads((kept / "faults.json").read_text())
    }
    rows, pictures, text = arrays
    return TarIndex(rows, pictures, text, faults)
