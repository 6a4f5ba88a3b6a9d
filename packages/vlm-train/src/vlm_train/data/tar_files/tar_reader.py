"""Iterates over the members of a tar file. Nothing is extracted."""

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
"""Bytes of all headers of one member, characters of its name, and members of one shard."""

_DIGITS = re.compile(rb"\d{100}")


@dataclass(frozen=True)
class Member:
    """A member: its name and the byte range of its content."""

    name: str
    start: int
    size: int


class Entry(NamedTuple):
    """A member of the tar; `fault` is why it can't be read, if it can't."""

    name: str
    start: int
    size: int
    fault: str = ""


def _is_system_file(name: str) -> bool:
    """Whether a member was added by an operating system or is hidden: `.DS_Store`, `._x.png`, `__MACOSX/…`."""
    *folders, base = name.split("/")
    return base.startswith(".") or any(f == "__MACOSX" or f.startswith("PaxHeader") for f in folders)


def _fault(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return f"a link to {printable(member.linkname)}"
    if member.issparse():
        return "a sparse file; write the tar without --sparse"
    return "" if member.isreg() else "a device or FIFO"


_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd", b"PK": "zip"}


def _compression(file: BinaryIO) -> str:
    """` but gzip` for a gzip file, by its first bytes; empty for an unknown format."""
    file.seek(0)
    head = file.read(6)
    return "".join(f" but {kind}" for magic, kind in _COMPRESSIONS.items() if head.startswith(magic))


class _Headers(io.RawIOBase):
    """The file object for tarfile, with a limit on the header bytes of one member.

    tarfile itself reads extended headers of any size and number into memory, with a recursive call for each.
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
    """Iterates over the members of a tar, without folders and system files.

    After the iteration, `broken` is how the tar is damaged, if it is, and `torn` whether its last member is truncated.
    """

    def __init__(self, file: BinaryIO, where: str) -> None:
        self.file, self.where, self.broken, self.torn = file, where, "", False
        self.size = os.fstat(file.fileno()).st_size
        self.headers = _Headers(file)
        try:
            self.tar = tarfile.open(fileobj=self.headers, mode="r:")  # noqa: SIM115, holds nothing but the file
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise UserError(
                f"{where}: not an uncompressed tar{_compression(file)}: {error}; decompress shards first"
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
            if not member.isdir() and not _is_system_file(name):
                yield Entry(name, member.offset_data, member.size, _fault(member))

    def _members(self) -> Iterator[tarfile.TarInfo]:
        while True:
            at = self.tar.offset
            self.headers.next_member()
            try:
                member = self.tar.next()
            except (tarfile.TarError, ValueError, OverflowError) as error:
                self.broken = f"damaged near byte {at}: {error}"
                return
            if member is None:
                self._check_end()
                return
            if len(member.name) > MAX_NAME:
                self.broken = (
                    f"has a name of {len(member.name)} characters near byte {at}; at most {MAX_NAME} are read"
                )
                return
            self.tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # tarfile keeps all members
            if member.size < 0 or (not member.issparse() and member.offset_data + member.size > self.size):
                self.broken, self.torn = f"truncated inside {printable(member.name)}", True
                yield member
                return
            yield member

    def _check_end(self) -> None:
        """Check that zeros follow the last member: tarfile takes any invalid header for the end."""
        self.file.seek(self.tar.offset)
        tail = self.file.read(2**20)
        if len(tail) < BLOCK:
            self.broken = f"has no end-of-archive mark at byte {self.tar.offset}"
        elif tail.strip(b"\0"):
            self.broken = f"has data that is not a member at byte {self.tar.offset}"
