"""Work that a PNG file makes: its chunks, and how much compressed data there is for its pixels."""

from __future__ import annotations

from vlm_core.image_formats.limits import MAX_METADATA, costly

MAX_CHUNKS = 100_000
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_SLACK = 2**20


def check(data: bytes) -> None:
    """Raises `BadSample` for a PNG file that costs too much."""
    at, chunks, metadata, pixels = 8, 0, 0, 0
    while len(data) - at >= 12:
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        chunks += 1
        if kind in (b"IDAT", b"fdAT"):
            pixels += length
        else:
            metadata += length
        if chunks > MAX_CHUNKS:
            costly(f"a PNG file of more than {MAX_CHUNKS} chunks")
        if metadata > MAX_METADATA:
            costly(f"a PNG file with more than {MAX_METADATA >> 20} MiB of metadata")
        if kind == b"IEND":
            break
        if kind == b"fcTL" and pixels:  # the next frame of an animation
            break
        at += 12 + length
    if pixels > 1.25 * _raw_size(data) + _SLACK:
        costly("a PNG file with more data than its pixels have")


def _raw_size(data: bytes) -> float:
    """Bytes of the pixels, undecoded, with a filter byte before each row and, interlaced, each of its passes."""
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
    depth, colour = data[24:25], data[25:26]
    bits = depth[0] * _CHANNELS.get(colour[0], 4) if colour else 64
    return height * (2 + (width * bits + 7) / 8)
