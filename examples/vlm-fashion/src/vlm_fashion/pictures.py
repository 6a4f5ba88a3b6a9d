"""Scenes as PNG files of 84×84 grey pixels."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from vlm_fashion.scenes import Scene
from vlm_grid.questions import SIDE


def draw(scene: Scene, items: Mapping[str, np.ndarray]) -> np.ndarray:
    """The image, uint8 (84, 84): items side by side that the scene's name seeds, one of them inverted.

    `items` are the images of each class, (n, 28, 28).
    """
    rng = random.Random(f"items of {scene.name}")  # other numbers than those that placed the classes
    cells = np.stack([rng.choice(items[name]) for name in scene.classes])
    cells[scene.white] = 255 - cells[scene.white]
    return np.concatenate([np.concatenate(cells[i : i + SIDE], axis=1) for i in range(0, SIDE**2, SIDE)])


def write(scene: Scene, items: Mapping[str, np.ndarray], folder: Path) -> Path:
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
