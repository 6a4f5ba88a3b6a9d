"""Cost of decoding the first frame of a GIF file."""

from __future__ import annotations

from vlm_core.io.image_formats.limits import costly

MAX_BLOCKS = 1_000_000
MAX_EXTENSIONS = 20_000
_SLACK = 2**20


def check(data: bytes) -> None:
    """Raise `BadSample` for a GIF file whose first frame is too costly to decode."""
    at = 13 + _palette(data[10:11])
    for extensions in range(MAX_EXTENSIONS):
        kind = data[at : at + 1]
        if kind == b",":
            return _check_frame(data, at + 1)
        if kind == b"!":
            count, at = _sub_blocks(data, at + 2, MAX_EXTENSIONS)
            if extensions + count >= MAX_EXTENSIONS:
                break
        elif kind in (b"", b";"):
            return None
        else:
            at += 1
    return costly(f"a GIF file with more than {MAX_EXTENSIONS} blocks before its first frame")


def _check_frame(data: bytes, at: int) -> None:
    width, height = (int.from_bytes(data[i : i + 2], "little") for i in (at + 4, at + 6))
    start = at + 10 + _palette(data[at + 8 : at + 9])
    blocks, end = _sub_blocks(data, start, MAX_BLOCKS)
    if blocks >= MAX_BLOCKS or end - start > 4 * width * height + _SLACK:
        costly("a GIF file with more data than its first frame has pixels")


def _palette(flags: bytes) -> int:
    """Bytes of the palette, from the flags of a header."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 128 else 0


def _sub_blocks(data: bytes, at: int, most: int) -> tuple[int, int]:
    """Number of data sub-blocks at `at`, at most `most`, and the offset of their end."""
    blocks = 0
    while blocks < most and at < len(data) and data[at]:
        at += 1 + data[at]
        blocks += 1
    return blocks, at + 1
