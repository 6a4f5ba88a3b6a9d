"""The members of a tar, one after the other. Nothing is ever extracted."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from vlm_core.errors import UserError
from vlm_core.markup.printable import printable

BLOCK = tarfile.BLOCKSIZE
MAX_HEADERS, MAX_NAME, MAX_MEMBERS = 64 * 2**10, 1024, 1_000_000
"""Bytes in front of one member, characters of its name, and members of one shard."""

_DIGITS = re.compile(rb"\d{100}")


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


class _Headers(io.RawIOBase):
    """A tar as tarfile sees it: of what stands in front of one member, only so much may be read.

    tarfile reads extended headers of any size and number, whole, and nests one call for each.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.left = file, MAX_HEADERS

    def next_member(self) -> None:
        self.left = MAX_HEADERS

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self.left:
            raise tarfile.ReadError(f"headers of one member with more than {MAX_HEADERS} bytes")
        self.left -= size
        data = self.file.read(size)
        if size > BLOCK and _DIGITS.search(data):  # tarfile's patterns take quadratic time for them
            raise tarfile.ReadError("an extended header that is a row of digits")
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


class Walk:
    """The members of a tar one after the other, folders and the operating systems' own files left out.

    `broken` says afterwards how it broke off, if it did, and `torn` whether the last member is not whole.
    """

    def __init__(self, file: BinaryIO, where: str) -> None:
        self.file, self.where, self.broken, self.torn = file, where, "", False
        self.size = os.fstat(file.fileno()).st_size
        self.headers = _Headers(file)
        try:
            self.tar = tarfile.open(fileobj=self.headers, mode="r:")  # noqa: SIM115, holds nothing but the file
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise UserError(
                f"{where}: no plain tar{_packing(file)}: {error}; compressed ones must be unpacked first"
            ) from None

    def __iter__(self) -> Iterator[Entry]:
        for count, member in enumerate(self._members()):
            if count == MAX_MEMBERS:
                raise UserError(
                    f"{self.where}: more than {MAX_MEMBERS} members; split it into several shards"
                )
            name = member.name
            while name.startswith("./"):
                name = name[2:].lstrip("/")
            if not member.isdir() and not _is_of_the_system(name):
                yield Entry(name, member.offset_data, member.size, _fault(member))

    def _members(self) -> Iterator[tarfile.TarInfo]:
        while True:
            at = self.tar.offset
            self.headers.next_member()
            try:
                member = self.tar.next()
            except (tarfile.TarError, ValueError, OverflowError) as error:
                self.broken = f"breaks off near byte {at}: {error}"
                return
            if member is None:
                self._check_end()
                return
            if len(member.name) > MAX_NAME:
                self.broken = (
                    f"has a name of {len(member.name)} characters near byte {at}; at most {MAX_NAME} are read"
                )
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
