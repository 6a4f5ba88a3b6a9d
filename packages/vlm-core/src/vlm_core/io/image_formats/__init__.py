"""Image formats by signature, and limits on the cost of decoding, checked before decoding.

A small file can take a decoder minutes. The limits count scans, chunks, blocks and bytes of the file, not time, so the
result doesn't depend on the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from vlm_core.errors import BadSample
from vlm_core.io.image_formats import gif, jpeg, png, tiff, uncompressed, webp
from vlm_core.io.image_formats.limits import VARIANT
from vlm_core.io.video_signatures import HEAD, container_of

MEGA = 10**6


class Format(NamedTuple):
    """A supported format: its limit in pixels, and a function that raises `BadSample` for costly files."""

    max_pixels: int
    check: Callable[[bytes], None]


FORMATS = {
    "AVIF": Format(16 * MEGA, webp.check_avif),
    "BMP": Format(64 * MEGA, uncompressed.check_bmp),
    "GIF": Format(64 * MEGA, gif.check),
    "JPEG": Format(64 * MEGA, jpeg.check),
    "PNG": Format(64 * MEGA, png.check),
    "PPM": Format(64 * MEGA, uncompressed.check_ppm),
    "TIFF": Format(64 * MEGA, tiff.check),
    "WEBP": Format(24 * MEGA, webp.check),
}
"""Supported formats by Pillow's names. AVIF and WebP take more time and memory per pixel than the others."""
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"P4": "PPM",
    b"P5": "PPM",
    b"P6": "PPM",
}
_NOT_READ = {
    b"%!PS": "PostScript (EPS)",
    b"\xc5\xd0\xd3\xc6": "PostScript (EPS)",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"<?xml": "XML",
    b"<html": "HTML",
    b"<!doctype": "HTML",
    b"<!DOCTYPE": "HTML",
    b"\0\0\1\0": "icon (ICO)",
    b"\0\0\2\0": "cursor (CUR)",
    b"icns": "icon (ICNS)",
    b"8BPS": "Photoshop (PSD)",
    b"\xd7\xcd\xc6\x9a": "WMF",
    b"\1\0\0\0": "EMF",
    b"DDS ": "DDS",
    b"\x0a\5\1\x08": "PCX",
    b"\1\xda": "SGI",
    b"qoif": "QOI",
    b"SIMPLE": "FITS",
    b"#define": "XBM",
    b"/* XPM */": "XPM",
    b"\x89HDF": "HDF5",
    b"BLP": "BLP",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"PK\3\4": "zip",
    b"\x1f\x8b": "gzip",
}
_PLAIN_TEXT = (b"P1", b"P2", b"P3")


def format_of(data: bytes) -> str | None:
    """The format of a file with the content `data`; None if unknown.

    Raises `BadSample` with advice for known formats that are not supported.
    """
    for signature, name in _SIGNATURES.items():
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        if b"avif" in data[8:12] or b"avis" in data[8:12] or data[8:12] in (b"mif1", b"msf1"):
            return "AVIF"
        if data[8:11] == b"hei" or data[8:11] == b"hev":
            return _refuse("not-an-image", "HEIC")
    if video := container_of(data[:HEAD]):
        raise BadSample("not-an-image", f"a video ({video}), not an image; give it under 'video'")
    if data.startswith(_PLAIN_TEXT) and data[2:3].isspace():
        return _refuse(VARIANT, "PBM, PGM or PPM written as text (P1, P2, P3)")
    for signature, name in _NOT_READ.items():
        if data.startswith(signature):
            return _refuse("not-an-image", name)
    return None


def _refuse(reason: str, name: str) -> None:
    possible = ", ".join(sorted(FORMATS))
    raise BadSample(
        reason,
        f"not an image of a kind that is read: {name} is none of {possible}; convert it to PNG or JPEG",
    )
