"""Scenes as PNG files of 48×48 pixels."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image, ImageDraw

from vlm_grid.scenes import SIDE, Scene

CELL = 16


def draw(scene: Scene) -> Image.Image:
    """The picture: squares and the ring on black."""
    image = Image.new("RGB", (SIDE * CELL, SIDE * CELL))
    pen = ImageDraw.Draw(image)
    for cell, colour in enumerate(scene.colours):
        y, x = (CELL * i for i in divmod(cell, SIDE))
        box = (x + 2, y + 2, x + CELL - 3, y + CELL - 3)
        if cell == scene.ring:
            pen.ellipse(box, outline=colour, width=3)
        else:
            pen.rectangle(box, fill=colour)
    return image


def write(scene: Scene, folder: Path) -> Path:
    """The scene's file in `folder`, drawn if it isn't there; a file is whole or absent, whoever else writes."""
    path = folder / f"{scene.name}.png"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f".{scene.name}-{os.getpid()}.tmp"
        draw(scene).save(aside, format="PNG")
        os.replace(aside, path)
    return path
