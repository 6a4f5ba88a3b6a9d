"""A tar's samples: neighbouring members whose names differ only after the first dot. Nothing is ever extracted."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import BinaryIO

from vlm_core.errors import BadSample, UserError

PICTURES = frozenset(["avif", "bmp", "gif", "jpeg", "jpg", "pbm", "pgm", "png", "ppm", "tif", "tiff", "webp"])
TEXTS = frozenset(("json", "txt"))
BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Member:
    """A member by its name and its bytes' place in the file."""

    name: str
    start: int
    size: int


@dataclass
class TarSample:
    """Members that belong together, of the kinds that are read; `fault` is what makes them unusable."""

    key: str
    texts: dict[str, Member] = field(default_factory=dict)
    pictures: list[Member] = field(default_factory=list)
    fault: BadSample | None = None


def printable(name: str) -> str:
    """A member's name for messages, whatever bytes it is made of."""
    return name if name.isprintable() else ascii(name)[1:-1]


def _split(name: str) -> tuple[str, str]:
    """`a/b.0.jpg` as (`a/b`, `0.jpg`); an empty extension for what belongs to no sample."""
    folder, slash, base = name.rpartition("/")
    key, _, extension = base.partition(".")
    return folder + slash + key, extension.lower() if key else ""


def samples(file: BinaryIO, where: str) -> Iterator[TarSample]:
    """The samples of a tar in order; where it breaks off, one more whose fault says so.

    Raises `UserError` for what is no tar at all, or a compressed one.
    """
    walk, count, broken = _Walk(file, where), 0, None
    for key, members in groupby(walk, key=lambda m: _split(m.name)[0]):
        sample = _sample(key, members, where)
        broken = walk.broken
        if broken:  # perhaps this sample's own members are missing
            break
        if sample.texts or sample.pictures or sample.fault:
            count += 1
            yield sample
    if broken := broken or walk.broken:
        yield TarSample("", fault=BadSample("truncated", f"{where}: {broken}, after {count} whole samples"))


def _sample(key: str, members: Iterator[tarfile.TarInfo], where: str) -> TarSample:
    sample, seen = TarSample(key), set()
    for member in members:
        extension = _split(member.name)[1]
        kind = extension.rpartition(".")[2]
        if member.isdir() or not (kind in PICTURES or extension in TEXTS):
            continue  # pickles, arrays and the like are not even read
        name = f"{where}: {printable(member.name)}"
        if not member.isreg() or member.issparse():
            sample.fault = BadSample(
                "not-a-file", f"{name}: a link, a device or sparse; expected a plain file"
            )
        elif extension in seen:
            sample.fault = BadSample("schema", f"{name}: two members of one sample have this name")
        seen.add(extension)
        found = Member(member.name, member.offset_data, member.size)
        if extension in TEXTS:
            sample.texts[extension] = found
        else:
            sample.pictures.append(found)
    return sample


class _Walk:
    """The members of a tar one after the other; `broken` says afterwards how it broke off, if it did."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self.file, self.broken = file, ""
        self.size = os.fstat(file.fileno()).st_size
        try:
            self.tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115, holds nothing but the file
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise UserError(
                f"{where}: no plain tar: {error}; compressed ones must be unpacked first"
            ) from None

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        while True:
            at = self.tar.offset
            try:
                member = self.tar.next()
            except (tarfile.TarError, ValueError, OverflowError) as error:
                self.broken = f"breaks off near byte {at}: {error}"
                return
            if member is None:
                self._check_end()
                return
            self.tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # it would keep them all
            if member.size < 0 or member.offset_data + member.size > self.size:
                self.broken = f"breaks off inside {printable(member.name)}"
                return
            yield member

    def _check_end(self) -> None:
        """tarfile takes garbage for the end; the end is zeros, and nothing follows."""
        self.file.seek(self.tar.offset)
        rest = self.file.read(2**20)
        if len(rest) < BLOCK:
            self.broken = f"has no end mark at byte {self.tar.offset}"
        elif rest.strip(b"\0"):
            self.broken = f"has something else than members at byte {self.tar.offset}"
