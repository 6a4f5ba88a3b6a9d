"""Hostile tar files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from hostile_json import GOOD, SMALL, TURNS, sparse

MIB = 2**20


def header(name: bytes, size: int, kind: bytes = b"0", extra: bytes = b"") -> bytes:
    """A tar header, unchecked: sizes may be negative or lie."""
    number = b"%011o\0" % size if 0 <= size < 8**11 else b"\x80" + size.to_bytes(11, "big", signed=True)
    if size < 0:
        number = b"\xff" + size.to_bytes(11, "big", signed=True)
    block = bytearray(512)
    block[0:100] = name[:100].ljust(100, b"\0")
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136], block[136:148], block[148:156] = number, b"00000000000\0", b" " * 8
    block[156:157], block[257:265] = kind, b"ustar\x0000"
    block[386 : 386 + len(extra)] = extra
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def member(name: bytes, data: bytes) -> bytes:
    return header(name, len(data)) + padded(data)


SAMPLE = member(b"0.json", GOOD.encode())
END = bytes(10240)


def tar_of(*blocks: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(SAMPLE + b"".join(blocks) + END) and None


def pax(**records: str) -> bytes:
    data = b"".join(b"%d %s=%s\n" % (len(k) + len(v) + 6, k.encode(), v.encode()) for k, v in records.items())
    return header(b"pax", len(data), b"x") + padded(data)


TAR: dict[str, Callable[[Path], object]] = {
    "pax-gigabyte.tar": lambda p: sparse(p, 2 * 2**30, SAMPLE + header(b"x", 2**30, b"x")),
    "pax-digits.tar": tar_of(*[header(b"x", 60_000, b"x") + padded(b"1" * 60_000) + SAMPLE] * 20),
    "long-name.tar": tar_of(header(b"x", MIB, b"L"), b"a" * MIB, SAMPLE),
    "dots.tar": tar_of(*[header(b"x", 60_000, b"L") + padded(b"a." * 29_990 + b"json") + SAMPLE] * 50),
    "long-name-chain.tar": tar_of(
        header(b"x", 4, b"L") + padded(b"abc\0") * 1,
        *[header(b"x", 4, b"L") + padded(b"abc\0")] * 5000,
        SAMPLE,
    ),
    "sparse-terabyte.tar": tar_of(
        header(
            b"1.json",
            512,
            b"S",
            b"%011o\0%011o\0" % (0, 512) + bytes(73) + b"\x80" + (2**40).to_bytes(11, "big"),
        ),
        bytes(512),
    ),
    "size-terabyte.tar": lambda p: sparse(p, 2**40 + 2**20, SAMPLE + header(b"1.png", 2**40)),
    "negative.tar": tar_of(header(b"1.json", -512), SAMPLE),
    "empty-members.tar": lambda p: (
        p.write_bytes(SAMPLE + header(b"1.jpg", 0) * (400_000 // SMALL) + END) and None
    ),
    "one-sample.tar": lambda p: (
        p.write_bytes(SAMPLE + b"".join(header(b"0.%d.jpg" % i, 0) for i in range(100_000 // SMALL)) + END)
        and None
    ),
    "links.tar": tar_of(
        header(b"1.json", 0, b"1"),
        header(b"2.json", 0, b"2"),
        header(b"3.json", 0, b"3"),
        header(b"4.json", 0, b"6"),
    ),
    "zeros-terabyte.tar": lambda p: sparse(p, 2**40),
    "zeros-behind.tar": lambda p: sparse(p, 2**40, SAMPLE),
    "lists.tar": tar_of(
        member(b"1.json", b'{"m":[' + b"[]," * (20_000_000 // SMALL) + b"0]," + TURNS.encode() + b"}")
    ),
    "deep-500.tar": tar_of(
        member(b"1.json", b'{"system":' + b"[" * 500 + b"]" * 500 + b"," + TURNS.encode() + b"}")
    ),
    "fifo.tar": lambda p: os.mkfifo(p),
}
