"""The index of tar shards: where each sample's words and pictures stand and what is wrong with it; made once."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vlm_core.errors import BadSample, UserError
from vlm_core.io.files import MAX_BYTES, open_regular
from vlm_core.markup.printable import printable
from vlm_core.rows import Row, text_length
from vlm_train.config.unknown_keys import check_unread, is_empty
from vlm_train.data.conversation.columns import Column, Columns, Reading, record_name, record_row
from vlm_train.data.conversation.image_values import InlineImage, image_value
from vlm_train.data.index_cache import Faults, fingerprint, kept, load_faults, load_table, note_fault, ordered
from vlm_train.data.json_files import json_index
from vlm_train.data.json_files.json_reader import MAX_ROW, loads
from vlm_train.data.tar_files.tar_reader import BLOCK, Member
from vlm_train.data.tar_files.tar_samples import TarSample, samples

VERSION = 4
INLINE = -1
"""The start of a picture that has no member of its own: its sample's `.json` holds it."""
ROW = np.dtype(
    [("shard", "<i4"), ("start", "<i8"), ("size", "<i4"), ("caption", "?"), ("chars", "<i4"),
     ("picture", "<i8"), ("pictures", "<i4"), ("key", "<i8"), ("length", "<i4"), ("crc", "<u4")]
)  # fmt: skip
PICTURE = np.dtype([("start", "<i8"), ("size", "<i8"), ("name", "<i8"), ("length", "<i4"), ("crc", "<u4")])

TABLES = {"rows": ROW, "pictures": PICTURE, "names": np.dtype(np.uint8)}
_FILES = (*(f"{name}.npy" for name in TABLES), "faults.json")


@dataclass
class TarIndex:
    """`rows` (of `ROW`), `pictures` (of `PICTURE`), the text that their names are pieces of, and faults by row."""

    rows: np.ndarray
    pictures: np.ndarray
    names: np.ndarray
    faults: Faults = field(default_factory=dict)
    dropped: int = 0


class Reader(NamedTuple):
    """How a sample's `.json` is read: `given` names keys that differ from ours, `ignore` those that are left out."""

    given: Mapping[Column, str]
    ignore: Sequence[str] = ()

    def row(
        self, record: Mapping[str, Any], members: Sequence[tuple[str, Any]], where: str, name: str
    ) -> Reading:
        """A sample's row from its record and its images by their members' names; raises `BadSample`.

        A name in `.json` means the member with that base name. Names that no member has say where the images were
        before, and are passed over where there are as many of them as members.
        """
        bases = [member.rpartition("/")[2] for member, _ in members]
        places = {base: place for place, base in reversed([*enumerate(bases)])}

        def number(named: str) -> int:
            base = named.rpartition("/")[2]
            if base not in places:
                raise BadSample("missing", f"{where}: image {named!r:.80} is no member of this sample")
            return places[base]

        keys = [self.given["image"]] if "image" in self.given else ["image", "images"]
        kept = {key: value for key, value in record.items() if key not in keys}
        filled = [key for key in keys if not is_empty(record.get(key))]
        if len(filled) > 1:
            raise BadSample("schema", f"{where}: images under both 'image' and 'images'")
        value = record[filled[0]] if filled else []
        named = [image_value(v, where) for v in (value if isinstance(value, list) else [value])]
        images = _own_images(named, [image for _, image in members], bases, where)
        given: dict[Column, str] = {ours: theirs for ours, theirs in self.given.items() if ours != "image"}
        return record_row(kept, where, name, given=given, ignore=self.ignore, images=images, member=number)


def _own_images(named: Sequence[Any], members: Sequence[Any], bases: Sequence[str], where: str) -> list[Any]:
    """The images of a sample: its members, in the order in which `.json` names them, or what `.json` holds."""
    inside = [image for image in named if isinstance(image, InlineImage)]
    if not named or (not members and len(inside) == len(named)):
        return [*members] or inside
    if inside or len(named) != len(members):
        text = f".json names {len(named)} images ({named[0]!r:.60}), but the sample has {len(members)} image members"
        raise BadSample("placeholders", f"{where}: {text}")
    wanted = [str(name).rpartition("/")[2] for name in named]
    return [members[bases.index(name)] for name in wanted] if sorted(wanted) == sorted(bases) else [*members]


def record_of(data: bytes, caption: bool, where: str) -> Mapping[str, Any]:
    """What a sample's `.json` holds, or its `.txt` as a caption; raises `BadSample`."""
    if caption:
        try:
            return {"caption": data.decode("utf-8-sig").replace("\r\n", "\n").strip()}
        except UnicodeDecodeError as error:
            raise BadSample("schema", f"{where}: no text: {error}") from None
    found = loads(data, where)
    if not isinstance(found, dict):
        raise BadSample("schema", f"{where}: expected a mapping, got {found!r:.60}")
    return found


def index_of(shards: Sequence[str], reader: Reader) -> TarIndex:
    """The index of all shards, from the cache if they are large and have not changed. Raises `UserError`."""
    known = "shards", VERSION, sorted(reader.given.items()), sorted(reader.ignore)
    digest, sizes = hashlib.sha256(repr(known).encode()), []
    for shard in shards:
        with open_regular(shard) as file:
            digest.update(fingerprint(file, Path(shard)))
            sizes.append(os.fstat(file.fileno()).st_size)
    if sum(sizes) < json_index.KEEP_FROM:
        return _build(shards, reader)
    what, load = f"{shards[0]}, … ({len(shards)} shards)", partial(_load, np.array(sizes))
    return kept(digest.hexdigest(), VERSION, what, lambda: _build(shards, reader), _write, load, _FILES)


def _build(shards: Sequence[str], reader: Reader) -> TarIndex:
    build, tables = _Builder(reader), []
    for number, shard in enumerate(shards):
        with open_regular(shard) as file:
            for sample in samples(file, shard):
                build.add(number, sample, shard, file)
        tables.append(build.taken())
    if not build.count:
        raise UserError(f"{shards[0]}: holds no samples; expected key.jpg beside key.json or key.txt")
    names = np.frombuffer(bytes(build.names), dtype=np.uint8)
    rows, pictures = (np.concatenate(column) for column in zip(*tables, strict=True))
    return TarIndex(rows, pictures, names, build.faults, build.dropped)


class _Builder:
    """Collects rows and pictures; `taken` turns them into arrays, which are a tenth in size, shard by shard."""

    def __init__(self, reader: Reader) -> None:
        self.reader, self.count, self.pictured, self.dropped = reader, 0, 0, 0
        self.rows: list[tuple[Any, ...]] = []
        self.pictures: list[tuple[int, int, int, int, int]] = []
        self.names = bytearray()
        self.faults: Faults = {}

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
            text, caption, row, crc = self._words(sample, where, file)
            chars, inside = text_length(row), [i for i in row["image"] if isinstance(i, InlineImage)]
            members = [*sample.pictures, *(Member("", INLINE, 0) for _ in inside)]
            pictures = [(p.start, p.size, *self._name(p.name), _header_crc(file, p)) for p in members]
        except BadSample as error:
            name = error.row or printable(sample.key) or where
            note_fault(self.faults, self.count, error, name, where)
        place = shard, text.start, text.size, caption, chars, self.pictured, len(pictures), *key, crc
        self.rows.append(place)
        self.pictures += pictures
        self.count, self.pictured = self.count + 1, self.pictured + len(pictures)

    def _words(self, sample: TarSample, where: str, file: Any) -> tuple[Member, bool, Row, int]:
        """The member that holds a sample's words, whether it is a caption, the row, and the CRC of the words."""
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
                continue  # facts about a picture, whose words are in .txt
            reader = Reader({}) if caption else self.reader
            pictures = [(p.name, p) for p in sample.pictures]
            try:
                row, dropped = reader.row(record, pictures, where, printable(sample.key))
            except BadSample as error:
                id_key = reader.given.get("id", "id")
                raise error.of_row(record_name(record, printable(sample.key), id_key)) from None
            self.dropped += dropped
            return member, caption, row, zlib.crc32(data)
        beside = ", ".join(printable(name) for name in [*sample.names][:5])
        raise BadSample("schema", f"{where}: has neither .json nor .txt; it has {beside}")

    def _name(self, name: str) -> tuple[int, int]:
        data = printable(name).encode()
        self.names += data
        return len(self.names) - len(data), len(data)


def _header_crc(file: Any, member: Member) -> int:
    """Of the header block in front of a member: name, size and time; whoever reads the member compares it."""
    if member.start == INLINE:
        return 0
    return zlib.crc32(os.pread(file.fileno(), BLOCK, member.start - BLOCK))


def _write(index: TarIndex, folder: Path) -> None:
    for name in TABLES:
        np.save(folder / f"{name}.npy", getattr(index, name))
    facts = {"faults": list(index.faults.items()), "dropped": index.dropped}
    (folder / "faults.json").write_text(json.dumps(facts))


def _load(sizes: np.ndarray, kept: Path) -> TarIndex:
    """The index of shards of these sizes; raises `UserError` for one whose parts don't fit each other or the shards."""
    rows, pictures, names = (load_table(kept / f"{name}.npy", dtype) for name, dtype in TABLES.items())
    facts, faults = load_faults(kept / "faults.json", len(rows))
    if type(facts.get("dropped")) is not int or not _fits(rows, pictures, len(names), sizes):
        raise UserError(f"{kept}: not an index of these shards")
    return TarIndex(rows, pictures, names, faults, facts["dropped"])


def _fits(rows: np.ndarray, pictures: np.ndarray, names: int, sizes: np.ndarray) -> bool:
    """Whether every place lies in its shard, each picture is of one row, and rows and names are in order."""
    shards, counts = rows["shard"], rows["pictures"]
    if not len(rows) or shards[0] < 0 or shards[-1] >= len(sizes) or (np.diff(shards) < 0).any():
        return False
    if (
        (counts < 0).any()
        or (rows["picture"] != np.cumsum(counts) - counts).any()
        or counts.sum() != len(pictures)
    ):
        return False
    inside = pictures["start"] != INLINE
    places = [
        (rows["start"], rows["size"], shards),
        (pictures["start"] * inside, pictures["size"], shards.repeat(counts)),
    ]
    named = [(rows["key"], rows["length"]), (pictures["name"], pictures["length"])]
    return all(
        (start >= 0).all() and (size >= 0).all() and (start <= sizes[of] - size).all()
        for start, size, of in places
    ) and all(ordered(start, length, names) for start, length in named)
