"""An example's image as a small JPEG inside a page."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_core.benchmark import EncodedImage
from vlm_core.errors import BadSample, UserError
from vlm_core.io.files import read_file

SIDE = 320
"""Pixels of the longer side; a JPEG of it has 10 to 30 kB."""


def digest_of(path: Path) -> str:
    """sha256 of an image file, or the reason why it can't be read."""
    try:
        return hashlib.sha256(read_file(path)).hexdigest()
    except BadSample as error:
        return error.reason


def checked(example: Mapping[str, Any]) -> tuple[str, str]:
    """As `embed`, for an example in an untrusted report.

    An image file is shown only if the report has its digest, so that a report can't make a page show another file.
    """
    path = Path(example.get("image") or "")
    if path.name and path.is_file() and digest_of(path) != example.get("image_sha256"):
        return (
            "",
            f"{'/'.join(path.parts[-2:])} is not the scored file, or the report has no digest of it; score again",
        )
    return embed(example)


def embed(example: Mapping[str, Any]) -> tuple[str, str]:
    """The image as a `data:` URL, and the reason why there is none: one of the two is empty; without an image, both."""
    from vlm_core.io.images import decode_image, load_image

    try:
        if text := example.get("image_base64"):
            image = decode_image(EncodedImage(text).read(), f"question {example['id']}")
        elif path := example.get("image"):
            image = load_image(path)
        else:
            return "", ""
    except (BadSample, UserError) as error:
        path = Path(example.get("image", ""))
        absent = path.name and not path.is_file()
        return "", f"{'/'.join(path.parts[-2:])} does not exist" if absent else str(error)
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}", ""
