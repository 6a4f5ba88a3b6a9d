"""Cost of decoding a PNG file: its chunks, and its compressed data per pixel."""

from __future__ import annotations

from collections.abc import Iterator

from vlm_core.io.image_formats import deflate
from vlm_core.io.image_formats.limits import MAX_METADATA, costly

MAX_CHUNKS = 100_000
MAX_COMPRESSED = 256
"""Chunks of compressed text or colour profiles; a decoder takes a few milliseconds for one."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PIXELS = (b"IDAT", b"fdAT")
_COMPRESSED = (b"iCCP", b"iTXt", b"zTXt")
_SLACK = 2**20


def check(data: bytes) -> None:
    """Raise `BadSample` for a PNG file that is too costly to decode."""
    metadata, pixels, compressed = 0, 0, 0
    for number, (kind, body) in enumerate(_chunks(data), 1):
        if kind in _PIXELS:
            pixels += len(body)
        else:
            metadata += len(body)
            compressed += kind in _COMPRESSED
        if number > MAX_CHUNKS:
            costly(f"a PNG file of more than {MAX_CHUNKS} chunks")
        if metadata > MAX_METADATA:
            costly(f"a PNG file with more than {MAX_METADATA >> 20} MiB of metadata")
        if compressed > MAX_COMPRESSED:
            costly(f"a PNG file with more than {MAX_COMPRESSED} chunks of compressed metadata")
    size = _raw_size(data)
    if pixels > 1.25 * size + _SLACK:
        costly("a PNG file with more data than its pixels have")
    if pixels > deflate.FREE:
        deflate.check("a PNG file", [(body for kind, body in _chunks(data) if kind == b"IDAT")], int(size))


def late_metadata(data: bytes) -> bool:
    """Whether text or EXIF, which may turn the image, follows its pixels."""
    begun = False
    for kind, _ in _chunks(data):
        if begun and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            return True
        begun = begun or kind in _PIXELS
    return False


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of each chunk, up to the end of the image, or to the second one of an animation."""
    view, at, begun, frames = memoryview(data), 8, False, list[int]()
    while len(data) - at >= 12:
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        animated = len(frames) == 1 and 1 < frames[0] <= 2**31
        if kind == b"IEND" or (kind == b"fcTL" and begun and animated):
            return
        yield kind, view[at + 8 : at + 8 + length]
        frames += [int.from_bytes(view[at + 8 : at + 12], "big")] * (kind == b"acTL")
        begun = begun or kind in _PIXELS
        at += 12 + length


def _raw_size(data: bytes) -> float:
    """Bytes of the filtered pixels: the rows, and filter bytes of all rows, interlaced or not."""
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
    depth, colour = data[24:25], data[25:26]
    bits = depth[0] * _CHANNELS.get(colour[0], 4) if colour else 64
    return height * (2 + (width * bits + 7) / 8)
