"""Frames from files: a folder of images, an animated image, a video."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_core.errors import BadSample, UserError
from vlm_core.io.files import open_regular, read_bytes
from vlm_core.io.frames.source import FrameSource, decoded
from vlm_core.io.frames.video import video_frames
from vlm_core.io.image_folder import EXTENSIONS
from vlm_core.io.image_formats import format_of
from vlm_core.io.image_formats.video_signatures import HEAD
from vlm_core.io.images import animation_frames, load_image


def file_frames(path: Path, rate: float | None = None) -> FrameSource[Any]:
    """The frames of a folder of images, `rate` (default 1) a second, of a video, or of an animated GIF, PNG or WebP.

    Raises `UserError` for anything else, and for `rate` with a file, which has times of its own.
    """
    if path.is_dir():
        return FrameSource(str(path), _folder_frames(path, rate or 1.0), load_image)
    if rate is not None:
        raise UserError(f"{path}: this file has times of its own; --rate is for folders and standard input")
    if _is_image(path):
        return FrameSource(str(path), _animation(path), decoded)
    return video_frames(path)


def _is_image(path: Path) -> bool:
    """Whether the file begins as an image that is read; the name does not matter."""
    with open_regular(path) as file:
        head = file.read(HEAD)
    try:
        return format_of(head) is not None
    except BadSample:  # a known kind that is not read; some are videos
        return False


def _in_order(path: Path) -> list[str | int]:
    """`frame2` before `frame10`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def _folder_frames(folder: Path, rate: float) -> Iterator[tuple[float, Path]]:
    paths = [path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS]
    if not paths:
        raise UserError(f"{folder}: no image in this folder ({', '.join(sorted(EXTENSIONS))})")
    return ((i / rate, path) for i, path in enumerate(sorted(paths, key=_in_order)))


def _animation(path: Path) -> Iterator[tuple[float, Image.Image]]:
    try:
        return animation_frames(read_bytes(path), str(path))
    except BadSample as error:
        raise UserError(*error.lines) from None
