"""Cost of decoding a WebP or AVIF file."""

from __future__ import annotations

from vlm_core.io.image_formats.limits import costly

MAX_BYTES = 64 * 2**20
MAX_CHUNKS = 20_000
MAX_CANVAS = 2**28
"""Pixels; a decoder allocates the canvas when it opens the file."""


def check(data: bytes) -> None:
    """Raise `BadSample` for a WebP file that is too costly to decode."""
    _check_bytes(data, "WebP")
    at, chunks = 12, 0
    while len(data) - at >= 8:
        at += 8 + (int.from_bytes(data[at + 4 : at + 8], "little") + 1) // 2 * 2
        chunks += 1
        if chunks > MAX_CHUNKS:
            costly(f"a WebP file of more than {MAX_CHUNKS} chunks")
    if data[12:16] == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
        if width * height > MAX_CANVAS:
            costly(f"a WebP file with a canvas of {width}×{height} pixels")


def check_avif(data: bytes) -> None:
    """Raise `BadSample` for an AVIF file that is too costly to decode."""
    _check_bytes(data, "AVIF")


def _check_bytes(data: bytes, name: str) -> None:
    if len(data) > MAX_BYTES:
        costly(f"a {name} file of {len(data)} bytes, more than {MAX_BYTES >> 20} MiB")
