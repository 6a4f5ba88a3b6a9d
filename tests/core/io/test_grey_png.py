"""The transparent value of grey PNG files of any depth becomes white, and no other value."""

import zlib

import pytest

from vlm_core.io.images import decode_image


def chunk(kind, content):
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def grey_png(values, depth, transparent=None):
    """A PNG file of one row of grey values."""
    width = len(values)
    bits = "".join(f"{value:0{depth}b}" for value in values)
    row = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    header = width.to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([depth, 0, 0, 0, 0])
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" + row)), chunk(b"IEND", b"")]
    if transparent is not None:
        parts.insert(1, chunk(b"tRNS", transparent.to_bytes(2, "big")))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_one_value_is_transparent(depth):
    most = 2**depth - 1
    values = sorted({0, 1, most // 2, most, *((10, 255, 256, 300, 2570, 2571, 11308) if depth == 16 else ())})
    shades = [decode_image(grey_png([v], depth), "x").getpixel((0, 0))[0] for v in values]
    assert all(abs(shade - value * 255 / most) < 1 for shade, value in zip(shades, values, strict=True))
    for transparent in values:
        image = decode_image(grey_png(values, depth, transparent), "x")
        expected = [255 if v == transparent else shade for v, shade in zip(values, shades, strict=True)]
        assert [image.getpixel((x, 0)) for x in range(len(values))] == [(v, v, v) for v in expected]
