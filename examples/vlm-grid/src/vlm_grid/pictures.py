"""Scenes as PNG files of 48×48 pixels."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image, ImageDraw

from vlm_grid.questions import SIDE
from vlm_grid.scenes import Scene

CELL = 16


def draw(scene: Scene) -> Image.Image:
    """The image: squares and the ring on black."""
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
    """Draw the scene's file in `folder` if it doesn't exist. Writing is atomic, also with several processes."""
    path = folder / f"{scene.name}.png"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        tmp_path = folder / f".{scene.name}-{os.getpid()}.tmp"
        draw(scene).save(tmp_path, format="PNG")
        os.replace(tmp_path, path)
    return path
