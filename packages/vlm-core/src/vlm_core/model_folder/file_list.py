"""Which files of a model folder are read, and that the manifest verifies every one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlm_core.io.manifest import verify_folder
from vlm_core.model import PARTS
from vlm_core.model_folder.weights import WEIGHTS

SPEC = "spec.yaml"
NEEDED = (SPEC, *(f"{part}/{WEIGHTS}" for part in PARTS))


def verify_model(path: str | Path, *, weights: bool = True) -> dict[str, Any]:
    """`verify_folder` for a model folder; files of other programs may lie beside the model's.

    With `weights=False`, for those who read none, the files of weights are not hashed.
    """
    return verify_folder(path, NEEDED, unread=None if weights else WEIGHTS)
