"""Image files made by hand that are small, or hold few pixels, and cost a decoder much."""

import io
import struct
import zlib

from PIL import Image

ORIENTED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0%c\0\0\0\0\0\0"
"""EXIF with an orientation."""


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def grey(mode="L", size=(64, 64)):
    return Image.new("L", size, 100).convert(mode)


def jpeg(inserted=b""):
    """With bytes between the first marker and the second."""
    data = encoded(grey(), "JPEG")
    return data[:2] + inserted + data[2:]


def segment(marker, body):
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def scans(count, size=(8000, 8000)):
    """A progressive JPEG whose second scan, a few bytes that leave every coefficient as it is, stands there often."""
    data = encoded(grey(size=size), "JPEG", progressive=True)

    def scan_at(at):
        while data[at + 1] != 0xDA:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + 2
        while not (data[end] == 0xFF and data[end + 1] not in (0, *range(0xD0, 0xD8))):
            end += 1
        return at, end

    first, second = scan_at(2), scan_at(scan_at(2)[1])
    tables = data[first[1] : second[0]]
    return data[: first[1]] + tables + data[slice(*second)] * count + b"\xff\xd9"


def with_frame_header(marker):
    data = encoded(grey(), "JPEG")
    return data.replace(b"\xff\xc0", bytes((0xFF, marker)), 1)


def chunk(kind, body=b""):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*extra, width=8, height=8, depth=8, colour=0, body=None):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(9 * height)) if body is None else body)
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + pixels + chunk(b"IEND")


def empty_blocks(size):
    """A deflate stream of blocks that hold nothing but their own code tables, 90 bits each."""
    order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1]
    fields = [(0, 1), (2, 2), (0, 5), (0, 5), (14, 4), *[(int(s in (18, 1)), 3) for s in order]]
    fields += [(1, 1), (127, 7), (1, 1), (107, 7), (0, 1), (0, 1), (0, 1)]
    bits = "".join(f"{value:0{count}b}"[::-1] for value, count in fields) * 8
    period = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
    return b"\x78\x9c" + period * (size // len(period))


def tiff(pixels=b"", **changes):
    """8-bit grey of 64×64 in strips; `changes` are of these names, a list for several values."""
    names = {
        "width": 256,
        "height": 257,
        "compression": 259,
        "offsets": 273,
        "rows": 278,
        "counts": 279,
        "tile_width": 322,
        "tile_height": 323,
        "tile_offsets": 324,
        "tile_counts": 325,
    }
    tags = {256: [64], 257: [64], 258: [8], 259: [1], 262: [1], 277: [1]}
    tags |= {273: [8], 278: [64], 279: [4096]} if "tile_width" not in changes else {}
    tags |= {names[key]: value if isinstance(value, list) else [value] for key, value in changes.items()}
    pixels = pixels or bytes(4096)
    values, directory, at = b"", b"", 8 + len(pixels)
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        place = numbers[0] if len(numbers) == 1 else at + len(values)
        values += packed if len(numbers) > 1 else b""
        directory += struct.pack("<HHII", tag, 4, len(numbers), place)
    start = struct.pack("<4sI", b"II*\0", at + len(values))
    return start + pixels + values + struct.pack("<H", len(tags)) + directory + bytes(4)


def overlapping(tags, size, kind=7):
    """A directory whose values all are the same bytes, which every tag has for itself once it is read."""
    entries = b"".join(struct.pack("<HHII", 40000 + i, kind, size, 8) for i in range(tags))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", tags) + entries + bytes(max(4, size - 12 * tags))


def broken_text(count):
    """Compressed text that a decoder reads to its damaged end, and then counts as none."""
    return chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10_000))[:-2] + b"xx") * count


def behind_pixels(*extra, before=b""):
    data = png(before)
    return data[:-12] + b"".join(extra) + data[-12:]


def small_strips(count, size=1 << 16):
    end = b"\1\0\0\xff\xff\0\0\0\1"
    blocks = empty_blocks(size - len(end)) + end
    offsets, counts, data = [8 + i * len(blocks) for i in range(count)], [len(blocks)] * count, blocks * count
    return tiff(data, compression=8, width=4000, height=40 * count, rows=40, offsets=offsets, counts=counts)


def gif(before=b"", blocks=None):
    """64×64, one frame; `before` stands before it, `blocks` are its data."""
    data = encoded(grey(), "GIF")
    start = 13 + (3 << (data[10] & 7) + 1)
    frame = data[start:] if blocks is None else data[start : start + 11] + blocks + b"\0;"
    return data[:start] + before + frame


def webp(*chunks, canvas=None):
    data = encoded(grey("RGB"), "WEBP", exif=ORIENTED % 1)
    body = data[12:] + b"".join(chunks)
    if canvas:
        body = body[:12] + b"".join((side - 1).to_bytes(3, "little") for side in canvas) + body[18:]
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def bmp(compression, tail=b""):
    data = encoded(grey("P"), "BMP")
    return data[:30] + struct.pack("<I", compression) + data[34:] + tail


COSTLY = {
    "a thousand scans": lambda: scans(1000),
    "a thousand scans of few pixels": lambda: scans(3000, (640, 480)),
    "fill bytes": lambda: jpeg(b"\xff" * 100_000),
    "bytes of no segment": lambda: jpeg(b"\xff\x01" + b"\0" * 100_000),
    "comments": lambda: jpeg(segment(0xFE, b"") * 3000),
    "EXIF in many pieces": lambda: jpeg(segment(0xE1, ORIENTED % 1 + bytes(65000)) * 300),
    "chunks": lambda: png(chunk(b"abCd") * 100_001),
    "empty data": lambda: png(chunk(b"IDAT") * 100_001),
    "metadata": lambda: png(chunk(b"eXIf", bytes(17 << 20))),
    "EXIF of shared bytes": lambda: png(chunk(b"eXIf", overlapping(4000, 100_000))),
    "EXIF behind the pixels": lambda: behind_pixels(chunk(b"eXIf", overlapping(4000, 100_000))),
    "EXIF of shared bytes in JPEG": lambda: jpeg(segment(0xE1, b"Exif\0\0" + overlapping(1000, 50_000))),
    "tags of shared bytes": lambda: overlapping(4000, 1_000_000),
    "text of shared bytes": lambda: overlapping(4000, 1_000_000, kind=2),
    "colour profiles": lambda: png(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10_000))) * 300),
    "damaged texts": lambda: png(broken_text(300)),
    "texts behind a frame": lambda: behind_pixels(chunk(b"fcTL", bytes(26)), broken_text(300)),
    "texts behind a frame of one": lambda: behind_pixels(
        chunk(b"fcTL", bytes(26)), broken_text(300), before=chunk(b"acTL", struct.pack(">II", 1, 0))
    ),
    "more data than pixels": lambda: png(body=zlib.compress(bytes(72)) + bytes(2 << 20)),
    "empty blocks": lambda: png(width=4000, height=4000, body=empty_blocks(6 << 20)),
    "empty blocks in TIFF": lambda: tiff(
        empty_blocks(6 << 20), compression=8, width=4000, height=4000, rows=4000, counts=6 << 20
    ),
    "empty blocks in small strips": lambda: small_strips(96),
    "strips that share their bytes": lambda: tiff(
        compression=8, rows=1, offsets=[8] * 64, counts=[4096] * 64
    ),
    "more strips than rows": lambda: tiff(rows=32, offsets=[8] * 100, counts=[2048] * 100),
    "a giant tile": lambda: tiff(
        compression=8, tile_width=20000, tile_height=20000, tile_offsets=8, tile_counts=4096
    ),
    "tiles of one pixel": lambda: tiff(
        width=4000, height=4000, tile_width=1, tile_height=1, tile_offsets=8, tile_counts=1
    ),
    "values of a tag": lambda: tiff(offsets=[8] * 1_000_001),
    "JPEG in TIFF": lambda: tiff(compression=7, width=4000, height=4000),
    "extensions": lambda: gif(b"!\xfe\0" * 20_001),
    "a comment in small pieces": lambda: gif(b"!\xfe" + b"\1a" * 20_001 + b"\0"),
    "codes that clear": lambda: gif(blocks=(b"\xff" + b"\x24\x49\x92" * 85) * 9000),
    "codes in small pieces": lambda: gif(blocks=b"\1\x04" * 1_000_001),
    "chunks of WebP": lambda: webp(b"abcd\0\0\0\0" * 20_001),
    "a giant canvas": lambda: webp(canvas=(65536, 65536)),
    "a long header": lambda: b"P6\n#" + b"a" * 5000 + b"\n64 64\n255\n" + bytes(3 * 64 * 64),
}
"""Refused for their work."""
VARIANTS = {
    "arithmetic coding": lambda: with_frame_header(0xC9),
    "lossless JPEG": lambda: with_frame_header(0xC3),
    "plain PBM": lambda: b"P1\n64 64\n" + b"1" * 64 * 64,
    "plain PGM": lambda: b"P2 64 64 255\n" + b"1 " * 64 * 64,
    "plain PPM": lambda: b"P3\n#x\n64 64\n255\n" + b"1 " * 3 * 64 * 64,
    "PPM of other values": lambda: b"P6\n64 64\n254\n" + bytes(3 * 64 * 64),
    "BMP in run lengths": lambda: bmp(1, bytes(2 << 20)),
    "BMP in short run lengths": lambda: bmp(2),
    "LZMA in TIFF": lambda: tiff(compression=34925),
    "old JPEG in TIFF": lambda: tiff(compression=6),
    "TIFF without byte counts": lambda: tiff(compression=5, counts=[]),
}
"""Refused for a variant that is rare and slow, or little tested."""
OTHERS = {
    "PostScript (EPS)": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 40\nshowpage\n",
    "PDF": b"%PDF-1.7\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "icon (ICO)": encoded(grey("RGB"), "ICO"),
    "icon (ICNS)": b"icns\0\0\0\x08",
    "Photoshop (PSD)": b"8BPS\0\1" + bytes(100),
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(100),
    "JPEG 2000": encoded(grey("RGB"), "JPEG2000"),
    "DDS": encoded(grey("RGB"), "DDS"),
    "PCX": encoded(grey("RGB"), "PCX"),
    "SGI": encoded(grey("RGB"), "SGI"),
    "XBM": encoded(grey("1"), "XBM"),
    "XPM": b"/* XPM */\nstatic char *x[] = {};",
    "HEIC": b"\0\0\0\x18ftypheic" + bytes(100),
    "HTML": b"<!DOCTYPE html><html>404</html>",
}
"""Named, with what to do."""
