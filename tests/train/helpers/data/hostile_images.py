"""Reads a corpus of hostile images as training would and prints what came of each: run as a script, it has a memory
of its own to measure.

    python hostile_images.py FOLDER
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

GREY = 200


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def plain(mode: str = "RGB", size: tuple[int, int] = (60, 40)) -> Image.Image:
    return Image.new("L", size, GREY).convert(mode)


def noise(size: tuple[int, int] = (200, 150)) -> Image.Image:
    return Image.effect_noise(size, 60).convert("RGB")


def turned(value: int) -> bytes:
    image = plain()
    exif = image.getexif()
    exif[0x0112] = value
    return encoded(image, "JPEG", exif=exif.tobytes())


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, depth: int = 8, colour: int = 0, data: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress(data or bytes((width * depth + 7) // 8 + 1) * height, 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + b"".join(extra)
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )


def spoilt(data: bytes, at: int, size: int = 40) -> bytes:
    return data[:at] + b"\xff" * size + data[at + size :]


def frames(form: str) -> bytes:
    return encoded(plain(), form, save_all=True, append_images=[noise((60, 40))] * 3)


def scans(count: int) -> bytes:
    """A progressive JPEG of 64 megapixels whose last scan stands there often."""
    data = encoded(plain("L", (8000, 8000)), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 40\n%%EndComments\n(canary) (w) file pop\nshowpage\n"
GIF_BOMB = (
    b"GIF89a"
    + struct.pack("<HHBBB", 60000, 60000, 0x80, 0, 0)
    + bytes(6)
    + (b"," + struct.pack("<HHHHB", 0, 0, 60000, 60000, 0) + b"\x02\x02\x4c\x01\x00;")
)
CORPUS: dict[str, tuple[str, bytes | Callable[[Path], Any]]] = {
    # what is read: the size
    "plain.jpg": ("60×40", encoded(plain(), "JPEG")),
    "progressive.jpg": ("60×40", encoded(plain(), "JPEG", progressive=True)),
    "grey.jpg": ("60×40", encoded(plain("L"), "JPEG")),
    "cmyk.jpg": ("60×40", encoded(plain("CMYK"), "JPEG")),
    "grey16.png": ("60×40", encoded(Image.new("I;16", (60, 40), GREY * 257), "PNG")),
    "rgb16.png": ("60×40", png(60, 40, depth=16, colour=2, data=(b"\0" + bytes([GREY, GREY]) * 180) * 40)),
    "palette.png": ("60×40", encoded(plain("P"), "PNG")),
    "bilevel.png": ("60×40", encoded(plain("1"), "PNG")),
    "grey-alpha.png": ("60×40", encoded(plain("LA"), "PNG")),
    "hidden-red.png": ("60×40", encoded(Image.new("RGBA", (60, 40), (255, 0, 0, 0)), "PNG")),
    "palette-transparent.png": ("60×40", encoded(plain("P"), "PNG", transparency=0)),
    "animated.gif": ("60×40", frames("GIF")),
    "animated.webp": ("60×40", frames("WEBP")),
    "animated.png": ("60×40", frames("PNG")),
    "pages.tiff": ("60×40", frames("TIFF")),
    "on-its-side.jpg": ("40×60", turned(6)),
    "mirrored.jpg": ("60×40", turned(2)),
    "orientation-99.jpg": ("60×40", turned(99)),
    "exif-garbage.jpg": ("60×40", encoded(plain(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")),
    "profile-garbage.png": ("60×40", encoded(plain(), "PNG", icc_profile=b"\xff" * 300)),
    "trailing.jpg": ("60×40", encoded(plain(), "JPEG") + b"<?php ?>" * 1000),
    "one-pixel.png": ("1×1", encoded(plain(size=(1, 1)), "PNG")),
    "wrong-name.png": ("60×40", encoded(plain(), "WEBP")),
    "flipped.jpg": ("200×150", spoilt(encoded(noise(), "JPEG"), 9000, 2)),  # nothing here can know
    "wide.png": ("20000×100", png(20000, 100)),
    # what is not: the reason
    "missing.png": ("missing", lambda path: None),
    "folder.png": ("not-a-file", lambda path: path.mkdir()),
    "fifo.png": ("not-a-file", os.mkfifo),
    "device.png": ("path", lambda path: path.symlink_to("/dev/zero")),
    "link.png": ("path", lambda path: path.symlink_to("/etc/passwd")),
    "empty.jpg": ("empty", b""),
    "html.jpg": ("not-an-image", b"<html><body>404 Not Found</body></html>"),
    "svg.jpg": ("not-an-image", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
    "postscript.jpg": ("not-an-image", EPS),
    "no-width.png": ("not-an-image", png(0, 40, data=b"\0")),
    "truncated.jpg": ("damaged", encoded(noise(), "JPEG")[:-3000]),
    "truncated.png": ("damaged", encoded(noise(), "PNG")[:-3000]),
    "truncated.webp": ("damaged", encoded(noise(), "WEBP")[:-3000]),
    "flipped.png": ("damaged", spoilt(encoded(noise(), "PNG"), 3000)),
    "text-bomb.png": (
        "damaged",
        png(60, 40, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26), 9))] * 2),
    ),
    "scans.jpg": ("too-costly", scans(1000)),
    "fill.jpg": ("too-costly", b"\xff\xd8" + b"\xff" * 2**20 + encoded(plain(), "JPEG")[2:]),
    "chunks.png": ("too-costly", png(60, 40, chunk(b"abCd", b"") * 100_001)),
    "comments.gif": ("too-costly", encoded(plain("P"), "GIF").replace(b",", b"!\xfe\0" * 20_001 + b",", 1)),
    "plain.pbm": ("variant", b"P1\n60 40\n" + b"1" * 2400),
    "runs.bmp": ("variant", encoded(plain("P"), "BMP")[:30] + b"\1\0\0\0"),
    "lzma.tiff": ("variant", encoded(plain(), "TIFF", compression="lzma")),
    "jpeg-2000.jpg": ("not-an-image", encoded(plain(), "JPEG2000")),
    "icon.png": ("not-an-image", encoded(plain(), "ICO")),
    "large.webp": ("too-many-pixels", encoded(plain(size=(5000, 5000)), "WEBP", method=0)),
    "float.tiff": ("no-range", encoded(Image.new("F", (60, 40), 0.5), "TIFF")),
    "int32.tiff": ("no-range", encoded(Image.new("I", (60, 40), 7), "TIFF")),
    "strip.png": ("too-narrow", png(20000, 2)),
    "pole.png": ("too-narrow", png(2, 20000)),
    "bomb-81.png": ("too-many-pixels", png(9000, 9000, depth=1)),
    "bomb-169.png": ("too-many-pixels", png(13000, 13000, depth=1)),
    "bomb-liar.png": ("too-many-pixels", png(2**31 - 1, 2**31 - 1, data=b"\0")),
    "bomb.gif": ("too-many-pixels", GIF_BOMB),
}


def make(folder: Path) -> Path:
    """The corpus as files, and a row for each."""
    for name, (_, content) in CORPUS.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            content(folder / name)
    turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "it"}]
    rows = [{"id": name, "image": name, "conversations": turns} for name in CORPUS]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "rows.jsonl"


def main() -> None:
    from vlm_core.io.images import load_image
    from vlm_core.runtime.peak_rss import peak_rss
    from vlm_encoders.towers.transforms import Resizing, to_pixels
    from vlm_train.data.dataset import DroppedSample, Examples
    from vlm_train.data.llava import LlavaConfig

    started: list[str] = []
    sys.addaudithook(
        lambda event, _: started.append(event) if event in ("subprocess.Popen", "os.exec") else None
    )

    def read(row: dict[str, Any]) -> tuple[str, list[int]]:
        image = load_image(row["image"][0])
        for fit in ("resize", "pad", "crop"):
            to_pixels(image, 384, 384, Resizing(fit), (0.5, 0.5, 0.5))
        middle = image.getpixel((image.width // 2, image.height // 2))
        return f"{image.width}×{image.height}", list(middle)  # pyright: ignore[reportArgumentType]

    examples, outcomes = Examples(LlavaConfig(path=str(make(Path(sys.argv[1])))).rows(), read), {}
    before = peak_rss() / 2**20
    for i, name in enumerate(CORPUS):
        began = time.process_time()
        item = examples[i]
        outcome, colour = (item.reason, []) if isinstance(item, DroppedSample) else item
        outcomes[name] = outcome, colour, time.process_time() - began
    memory = peak_rss() / 2**20
    sys.stdout.write(json.dumps({"found": outcomes, "memory": memory, "before": before, "started": started}))


if __name__ == "__main__":
    main()
