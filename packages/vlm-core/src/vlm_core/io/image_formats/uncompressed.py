"""BMP and PPM: only variants that Pillow decodes in native code."""

from __future__ import annotations

import re

from vlm_core.io.image_formats.limits import costly, variant

_BMP_COMPRESSION = (0, 3, 6)  # none, or bit masks
_SPACE = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PPM = re.compile(rb"P([456])" + _SPACE + rb"\d+" + _SPACE + rb"\d+(?:" + _SPACE + rb"(\d+))?")
_PPM_KINDS = ((b"5", b"255"), (b"5", b"65535"), (b"6", b"255"))
_HEADER = 4096


def check_bmp(data: bytes) -> None:
    """Raise `BadSample` for a BMP file that Pillow decodes in Python, run by run."""
    header, compression = (int.from_bytes(data[i : i + 4], "little") for i in (14, 30))
    if header >= 40 and compression not in _BMP_COMPRESSION:
        variant(f"BMP with compression {compression} (run lengths, or a file in a file)")


def check_ppm(data: bytes) -> None:
    """Raise `BadSample` for a PPM file that Pillow decodes in Python, pixel by pixel."""
    header = _PPM.match(data[:_HEADER])
    if not header:
        costly(f"a PPM file without width and height in its first {_HEADER} bytes")
    kind, most = (part or b"" for part in header.groups())
    if (kind, most) in _PPM_KINDS or kind == b"4":
        return
    variant(f"P{kind.decode()} with values up to {most.decode() or '?'}")
