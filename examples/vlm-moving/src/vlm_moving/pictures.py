"""Frames as PNG files of 24×24 pixels."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image, ImageDraw

from vlm_moving.clips import SIDE, Frame

CELL = 8
"""Side of a cell, in pixels."""


def draw(frame: Frame | None) -> Image.Image:
    """The image: a shape on black, or black alone."""
    image = Image.new("RGB", (SIDE * CELL, SIDE * CELL))
    if frame is not None:
        _shape(ImageDraw.Draw(image), frame)
    return image


def _shape(pen: ImageDraw.ImageDraw, frame: Frame) -> None:
    y, x = (CELL * i for i in divmod(frame.cell, SIDE))
    left, top, right, bottom = x + 1, y + 1, x + CELL - 2, y + CELL - 2
    if frame.shape == "square":
        pen.rectangle((left, top, right, bottom), fill=frame.colour)
    elif frame.shape == "ring":
        pen.ellipse((left, top, right, bottom), outline=frame.colour)
    elif frame.shape == "triangle":
        pen.polygon([(left, bottom), (right, bottom), ((left + right) // 2, top)], fill=frame.colour)
    else:
        pen.line((left, top, right, bottom), fill=frame.colour)
        pen.line((left, bottom, right, top), fill=frame.colour)


def write(frame: Frame | None, folder: Path) -> Path:
    """Draw the frame's file in `folder` if it doesn't exist. Writing is atomic, also with several processes."""
    path = folder / f"{frame.name if frame else 'empty'}.png"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        tmp_path = folder / f".{path.stem}-{os.getpid()}.tmp"
        draw(frame).save(tmp_path, format="PNG")
        os.replace(tmp_path, path)
    return path
