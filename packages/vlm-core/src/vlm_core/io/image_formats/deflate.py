"""Deflate streams that give next to nothing for their bytes: a decoder takes longest over blocks that hold no data."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from vlm_core.io.image_formats.limits import costly

FREE = 4 * 2**20
"""Compressed bytes that are decoded fast enough whatever they hold."""
_WINDOW = 2**20
_FRAME = 16  # bytes of a stream besides its blocks, and some
_LEAST = 0.98  # bytes out for a byte in; data that can't be compressed are stored, with 5 bytes more a block


def check(name: str, streams: Iterable[Iterable[memoryview]], size: int) -> None:
    """Raises `BadSample` for streams, each in pieces, that hold less than their own size.

    `size` is what a decoder takes from each; what follows costs nothing.
    """
    taken, given = 0, 0
    for pieces in streams:
        for count, output in _decoded(pieces, size):
            taken, given = taken + count, given + output
            if taken >= _WINDOW:
                if given < _LEAST * taken:
                    costly(f"{name} whose compressed data hold less than their own size")
                taken, given = 0, 0


def _decoded(pieces: Iterable[memoryview], size: int) -> Iterator[tuple[int, int]]:
    """Bytes of each piece that are decoded, and of what they hold, up to `size` of these."""
    stream, left, frame = zlib.decompressobj(), size, _FRAME
    for piece in pieces:
        rest: bytes | memoryview = piece
        output = 0
        while rest and not stream.eof and output < left:
            try:
                output += len(stream.decompress(rest, _WINDOW))
            except zlib.error:  # the decoder says what is wrong, and ends here
                return
            rest = stream.unconsumed_tail
        yield max(0, len(piece) - len(rest) - len(stream.unused_data) - frame), output
        left, frame = left - output, 0
        if stream.eof or left <= 0:
            return
