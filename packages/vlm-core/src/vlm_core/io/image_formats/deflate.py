"""Deflate streams whose output is smaller than their input: blocks without data are the slowest to decode."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from vlm_core.io.image_formats.limits import costly

FREE = 4 * 2**20
"""Compressed bytes that are always decoded fast enough."""
_WINDOW = 2**20
_FRAME = 16  # bytes of a stream besides its blocks, and some
_LEAST = 0.98  # bytes out for a byte in; data that can't be compressed are stored, with 5 bytes more a block


def check(name: str, streams: Iterable[Iterable[memoryview]], size: int) -> None:
    """Raise `BadSample` for streams, each in pieces, whose output is smaller than their input.

    `size` is the number of output bytes that a decoder reads from each stream.
    """
    consumed, produced = 0, 0
    for pieces in streams:
        for count, output in _decoded(pieces, size):
            consumed, produced = consumed + count, produced + output
            if consumed >= _WINDOW:
                if produced < _LEAST * consumed:
                    costly(f"{name} whose compressed data hold less than their own size")
                consumed, produced = 0, 0


def _decoded(pieces: Iterable[memoryview], size: int) -> Iterator[tuple[int, int]]:
    """(input bytes, output bytes) of each piece, up to `size` output bytes in total."""
    stream, remaining, frame = zlib.decompressobj(), size, _FRAME
    for piece in pieces:
        tail: bytes | memoryview = piece
        output = 0
        while tail and not stream.eof and output < remaining:
            try:
                output += len(stream.decompress(tail, _WINDOW))
            except zlib.error:  # the image decoder reports the error
                return
            tail = stream.unconsumed_tail
        yield max(0, len(piece) - len(tail) - len(stream.unused_data) - frame), output
        remaining, frame = remaining - output, 0
        if stream.eof or remaining <= 0:
            return
