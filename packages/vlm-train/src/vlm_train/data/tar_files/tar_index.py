"""The index of tar shards: byte ranges of each sample's text and images, and its fault; built once."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from vlm_core.errors import BadSample, UserError
from vlm_core.io.files import MAX_BYTES, open_regular
from vlm_core.markup.printable import printable
from vlm_core.rows import Row, text_length
from vlm_train.config.unknown_keys import check_unread, is_empty
from vlm_train.data.conversation.columns import Column, Columns, Reading, record_name, record_row
from vlm_train.data.conversation.image_values import InlineImage, filled_values, image_value
from vlm_train.data.conversation.video_values import RowVideo, value_of, video_value
from vlm_train.data.index_cache import (
    Faults,
    are_consecutive,
    cached_index,
    fingerprint,
    load_faults,
    load_table,
    note_fault,
)
from vlm_train.data.json_files import json_index
from vlm_train.data.json_files.json_reader import MAX_ROW, loads
from vlm_train.data.tar_files.tar_reader import BLOCK, Member
from vlm_train.data.tar_files.tar_samples import TarSample, is_video, samples

VERSION = 6
INLINE = -1
"""The start of an inline image: it is stored in its sample's `.json`, not in a member."""
ROW = np.dtype(
    [("shard", "<i4"), ("start", "<i8"), ("size", "<i4"), ("caption", "?"), ("chars", "<i4"),
     ("picture", "<i8"), ("pictures", "<i4"), ("videos", "<i4"), ("key", "<i8"), ("length", "<i4"), ("crc", "<u4")]
)  # fmt: skip
PICTURE = np.dtype([("start", "<i8"), ("size", "<i8"), ("name", "<i8"), ("length", "<i4"), ("crc", "<u4")])

TABLES = {"rows": ROW, "pictures": PICTURE, "names": np.dtype(np.uint8)}
_FILES = (*(f"{name}.npy" for name in TABLES), "faults.json")


@dataclass
class TarIndex:
    """`rows` (dtype `ROW`), `pictures` (dtype `PICTURE`), the concatenated names of both, and faults by row.

    `dropped` counts samples whose first turn is gpt's and is not used.
    """

    rows: np.ndarray
    pictures: np.ndarray
    names: np.ndarray
    faults: Faults = field(default_factory=dict)
    dropped: int = 0


class RecordReader(NamedTuple):
    """Converts a sample's `.json` to a row: `given` maps columns to its keys, keys in `ignore` are not read."""

    given: Mapping[Column, str]
    ignore: Sequence[str] = ()

    def row(
        self, record: Mapping[str, Any], members: Sequence[tuple[str, Any]], where: str, name: str
    ) -> Reading:
        """A sample's row from its record and its image members (name, image); raises `BadSample`.

        A name in `.json` refers to the member with that base name. If no member has these names, they are taken for
        the original file names, provided that there are as many names as members.
        """
        bases = [member.rpartition("/")[2] for member, _ in members]
        numbers = {base: number for number, base in reversed([*enumerate(bases)])}

        def number_of(named: str) -> int:
            base = named.rpartition("/")[2]
            if base not in numbers:
                raise BadSample("missing", f"{where}: image {named!r:.80} is not a member of this sample")
            return numbers[base]

        keys = self._keys("image"), self._keys("video")
        other = {key: value for key, value in record.items() if key not in (*keys[0], *keys[1])}
        named = [image_value(value, where) for value in self._named(record, keys[0], where)]
        named += [video_value(value, where) for value in self._named(record, keys[1], where)]
        media = [RowVideo(member) if is_video(name) else member for name, member in members]
        images = _sample_images(named, media, bases, where)
        given: dict[Column, str] = {
            ours: theirs for ours, theirs in self.given.items() if ours not in ("image", "video")
        }
        return record_row(
            other, where, name, given=given, ignore=self.ignore, images=images, member=number_of
        )

    def _keys(self, medium: Literal["image", "video"]) -> list[str]:
        return [self.given[medium]] if medium in self.given else [medium, f"{medium}s"]

    @staticmethod
    def _named(record: Mapping[str, Any], keys: Sequence[str], where: str) -> list[Any]:
        return filled_values(
            {key: v for key, v in record.items() if not is_empty(v)}, keys, where, f"{keys[0]}s"
        )


def _sample_images(
    named: Sequence[Any], members: Sequence[Any], bases: Sequence[str], where: str
) -> list[Any]:
    """The images of a sample: its members in the order of the names in `.json`, or the inline images of `.json`.

    Videos are among them, each with the sampling that its name in `.json` has.
    """
    inline = [image for image in named if isinstance(value_of(image), InlineImage)]
    if not named or (not members and len(inline) == len(named)):
        return [*members] or inline
    if inline or len(named) != len(members):
        text = f".json names {len(named)} images ({named[0]!r:.60}), but the sample has {len(members)} image members"
        raise BadSample("placeholders", f"{where}: {text}")
    names = [str(value_of(image)).rpartition("/")[2] for image in named]
    if sorted(names) == sorted(bases):
        ordered = [members[bases.index(name)] for name in names]
    else:  # original names; images precede videos, as in `named`
        ordered = sorted(members, key=lambda member: isinstance(member, RowVideo))
    return [_as_named(member, image, where) for member, image in zip(ordered, named, strict=True)]


def _as_named(member: Any, image: Any, where: str) -> Any:
    """A member with the sampling of its name; raises `BadSample` for a video that is named as an image."""
    if isinstance(member, RowVideo) != isinstance(image, RowVideo):
        kind = "a video" if isinstance(member, RowVideo) else "an image"
        raise BadSample("schema", f"{where}: {value_of(image)!r:.60} in .json is {kind} in the sample")
    return RowVideo(member.value, image.sampling) if isinstance(image, RowVideo) else member


def record_of(data: bytes, caption: bool, where: str) -> Mapping[str, Any]:
    """The mapping of a sample's `.json`, or its `.txt` as a caption; raises `BadSample`."""
    if caption:
        try:
            return {"caption": data.decode("utf-8-sig").replace("\r\n", "\n").strip()}
        except UnicodeDecodeError as error:
            raise BadSample("schema", f"{where}: not UTF-8 text: {error}") from None
    record = loads(data, where)
    if not isinstance(record, dict):
        raise BadSample("schema", f"{where}: expected a mapping, got {record!r:.60}")
    return record


def index_of(shards: Sequence[str], reader: RecordReader) -> TarIndex:
    """The index of all shards, from the cache if they are large and have not changed. Raises `UserError`."""
    key = "shards", VERSION, sorted(reader.given.items()), sorted(reader.ignore)
    digest, sizes = hashlib.sha256(repr(key).encode()), []
    for shard in shards:
        with open_regular(shard) as file:
            digest.update(fingerprint(file, Path(shard)))
            sizes.append(os.fstat(file.fileno()).st_size)
    if sum(sizes) < json_index.MIN_CACHED_BYTES:
        return _build(shards, reader)
    what, load = f"{shards[0]}, … ({len(shards)} shards)", partial(_load, np.array(sizes))
    return cached_index(
        digest.hexdigest(), VERSION, what, lambda: _build(shards, reader), _write, load, _FILES
    )


def _build(shards: Sequence[str], reader: RecordReader) -> TarIndex:
    builder, tables = _Builder(reader), []
    for number, shard in enumerate(shards):
        with open_regular(shard) as file:
            for sample in samples(file, shard):
                builder.add(number, sample, shard, file)
        tables.append(builder.take_arrays())
    if not builder.count:
        raise UserError(f"{shards[0]}: has no samples; expected key.jpg with key.json or key.txt")
    names = np.frombuffer(bytes(builder.names), dtype=np.uint8)
    rows, pictures = (np.concatenate(column) for column in zip(*tables, strict=True))
    return TarIndex(rows, pictures, names, builder.faults, builder.dropped)


class _Builder:
    """Collects rows and pictures of one shard at a time; as arrays they take a tenth of the memory."""

    def __init__(self, reader: RecordReader) -> None:
        self.reader, self.count, self.pictured, self.dropped = reader, 0, 0, 0
        self.rows: list[tuple[Any, ...]] = []
        self.pictures: list[tuple[int, int, int, int, int]] = []
        self.names = bytearray()
        self.faults: Faults = {}

    def take_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows, pictures) collected since the last call."""
        arrays = np.array(self.rows, dtype=ROW), np.array(self.pictures, dtype=PICTURE)
        self.rows, self.pictures = [], []
        return arrays

    def add(self, shard: int, sample: TarSample, where: str, file: Any) -> None:
        key, pictures = self._name(sample.key), []
        text, caption, chars, videos, crc = Member("", 0, 0), False, 0, 0, 0
        try:
            if sample.fault:
                raise sample.fault
            text, caption, row, crc = self._text(sample, where, file)
            chars, videos = text_length(row), sum(isinstance(image, RowVideo) for image in row["image"])
            inline = [image for image in row["image"] if isinstance(value_of(image), InlineImage)]
            members = [*sample.pictures, *(Member("", INLINE, 0) for _ in inline)]
            pictures = [(p.start, p.size, *self._name(p.name), _header_crc(file, p)) for p in members]
        except BadSample as error:
            name = error.row or printable(sample.key) or where
            note_fault(self.faults, self.count, error, name, where)
        row = shard, text.start, text.size, caption, chars, self.pictured, len(pictures), videos, *key, crc
        self.rows.append(row)
        self.pictures += pictures
        self.count, self.pictured = self.count + 1, self.pictured + len(pictures)

    def _text(self, sample: TarSample, where: str, file: Any) -> tuple[Member, bool, Row, int]:
        """(member with a sample's text, whether it is a caption, the row, CRC of the text)."""
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
            if not caption and "txt" in sample.texts and not self.reader.given and not Columns.fit(record):
                check_unread(record, self.reader.ignore, f"{where}: .json beside .txt", (), 1)
                continue  # metadata of an image whose caption is in .txt
            reader = RecordReader({}) if caption else self.reader
            pictures = [(p.name, p) for p in sample.pictures]
            try:
                row, dropped = reader.row(record, pictures, where, printable(sample.key))
            except BadSample as error:
                id_key = reader.given.get("id", "id")
                raise error.of_row(record_name(record, printable(sample.key), id_key)) from None
            self.dropped += dropped
            return member, caption, row, zlib.crc32(data)
        members = ", ".join(printable(name) for name in [*sample.names][:5])
        raise BadSample("schema", f"{where}: has neither .json nor .txt; it has {members}")

    def _name(self, name: str) -> tuple[int, int]:
        data = printable(name).encode()
        self.names += data
        return len(self.names) - len(data), len(data)


def _header_crc(file: Any, member: Member) -> int:
    """CRC of a member's header block (name, size, time), which is compared when the member is read."""
    if member.start == INLINE:
        return 0
    return zlib.crc32(os.pread(file.fileno(), BLOCK, member.start - BLOCK))


def _write(index: TarIndex, folder: Path) -> None:
    for name in TABLES:
        np.save(folder / f"{name}.npy", getattr(index, name))
    facts = {"faults": list(index.faults.items()), "dropped": index.dropped}
    (folder / "faults.json").write_text(json.dumps(facts))


def _load(sizes: np.ndarray, folder: Path) -> TarIndex:
    """The index of shards of these sizes; raises `UserError` for one that contradicts itself or the shards."""
    rows, pictures, names = (load_table(folder / f"{name}.npy", dtype) for name, dtype in TABLES.items())
    facts, faults = load_faults(folder / "faults.json", len(rows))
    if type(facts.get("dropped")) is not int or not _is_consistent(rows, pictures, len(names), sizes):
        raise UserError(f"{folder}: not an index of these shards")
    return TarIndex(rows, pictures, names, faults, facts["dropped"])


def _is_consistent(rows: np.ndarray, pictures: np.ndarray, names: int, sizes: np.ndarray) -> bool:
    """Whether all byte ranges are inside their shards, each picture is of one row, and rows and names are in order."""
    shards, counts = rows["shard"], rows["pictures"]
    if not len(rows) or shards[0] < 0 or shards[-1] >= len(sizes) or (np.diff(shards) < 0).any():
        return False
    if (
        (counts < 0).any()
        or (rows["videos"] < 0).any()
        or (rows["videos"] > counts).any()
        or (rows["picture"] != np.cumsum(counts) - counts).any()
        or counts.sum() != len(pictures)
    ):
        return False
    is_member = pictures["start"] != INLINE
    ranges = [
        (rows["start"], rows["size"], shards),
        (pictures["start"] * is_member, pictures["size"], shards.repeat(counts)),
    ]
    name_ranges = [(rows["key"], rows["length"]), (pictures["name"], pictures["length"])]
    return all(
        (start >= 0).all() and (size >= 0).all() and (start <= sizes[shard] - size).all()
        for start, size, shard in ranges
    ) and all(are_consecutive(start, length, names) for start, length in name_ranges)
