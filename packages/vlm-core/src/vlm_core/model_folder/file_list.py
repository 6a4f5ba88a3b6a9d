"""Which files of a model folder are read, and that the manifest verifies every one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlm_core.errors import UserError
from vlm_core.io.files import MAX_BYTES
from vlm_core.io.manifest import read_manifest, verify_folder
from vlm_core.model import PARTS
from vlm_core.model_folder.weights import WEIGHTS

SPEC = "spec.yaml"
NEEDED = (SPEC, *(f"{part}/{WEIGHTS}" for part in PARTS))


def verify_model(path: str | Path, *, weights: bool = True) -> dict[str, Any]:
    """`verify_folder` for a model folder; files of other programs may lie beside the model's.

    With `weights=False`, for those who read none, the files of weights are not hashed. Other files are small: a larger
    one, which nothing here reads, would only be hashed for as long as its author likes.
    """
    for name, fact in read_manifest(path)["files"].items():
        if fact["bytes"] > MAX_BYTES and not name.endswith((".safetensors", ".bin")):
            raise UserError(
                f"{Path(path) / name}: {fact['bytes']} bytes; a model folder's files besides weights have at most "
                f"{MAX_BYTES}"
            )
    return verify_folder(path, NEEDED, unread=None if weights else WEIGHTS)
