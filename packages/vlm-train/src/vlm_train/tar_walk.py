"""The members of a tar, one after the other. Nothing is ever extracted."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from vlm_core.errors import UserError
from vlm_core.printable import printable

BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Member:
    """A member by its name and its bytes' place in the file."""

    name: str
    start: int
    size: int


class Entry(NamedTuple):
    """A member that may be read; `fault` says why it can't be."""

    name: str
    start: int
    size: int
    fault: str = ""


def _is_of_the_system(name: str) -> bool:
    """Whether a member is an operating system's, not a person's: `.DS_Store`, `._x.png`, `__MACOSX/…`, hidden files."""
    *folders, base = name.split("/")
    return base.startswith(".") or any(f == "__MACOSX" or f.startswith("PaxHeader") for f in folders)


def _fault(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return f"a link to {printable(member.linkname)}"
    if member.issparse():
        return "a sparse file; write the tar without --sparse"
    return "" if member.isreg() else "a device or FIFO"


_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd", b"PK": "zip"}


def _packing(file: BinaryIO) -> str:
    """` but gzip`, or what else the first bytes say."""
    file.seek(0)
    head = file.read(6)
    return "".join(f" but {kind}" for magic, kind in _PACKED.items() if head.startswith(magic))


class Walk:
    """The members of a tar one after the other, folders and the operating systems' own files left out.

    `broken` says afterwards how it broke off, if it did, and `torn` whether the last member is not whole.
    """

    def __init__(self, file: BinaryIO, where: str) -> None:
        self.file, self.broken, self.torn = file, "", False
        self.size = os.fstat(file.fileno()).st_size
        try:
            self.tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115, holds nothing but the file
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise UserError(
                f"{where}: no plain tar{_packing(file)}: {error}; compressed ones must be unpacked first"
            ) from None

    def __iter__(self) -> Iterator[Entry]:
        for member in self._members():
            name = member.name
            while name.startswith("./"):
                name = name[2:].lstrip("/")
            if not member.isdir() and not _is_of_the_system(name):
                yield Entry(name, member.offset_data, member.size, _fault(member))

    def _members(self) -> Iterator[tarfile.TarInfo]:
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
            if member.size < 0 or (not member.issparse() and member.offset_data + member.size > self.size):
                self.broken, self.torn = f"breaks off inside {printable(member.name)}", True
                yield member
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
