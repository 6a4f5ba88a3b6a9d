"""Scenes as PNG files of 84×84 grey pixels."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from PIL import Image

from vlm_fashion.scenes import SIDE, Scene


def draw(scene: Scene, items: np.ndarray) -> np.ndarray:
    """The image, uint8 (84, 84): the scene's items side by side, one of them inverted.

    `items` are all items of its split, (n, 28, 28).
    """
    cells = items[list(scene.items)]
    cells[scene.white] = 255 - cells[scene.white]
    return np.concatenate([np.concatenate(cells[i : i + SIDE], axis=1) for i in range(0, SIDE**2, SIDE)])


def write(scene: Scene, items: np.ndarray, folder: Path) -> Path:
    """The scene's file in `folder`, named by scene and content, drawn if it doesn't exist.

    Writing is atomic, also with several processes.
    """
    pixels = draw(scene, items)
    path = folder / f"{scene.name}-{hashlib.sha256(pixels.tobytes()).hexdigest()[:12]}.png"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        tmp_path = folder / f".{path.stem}-{os.getpid()}.tmp"
        Image.fromarray(pixels).save(tmp_path, format="PNG")
        os.replace(tmp_path, path)
    return path
