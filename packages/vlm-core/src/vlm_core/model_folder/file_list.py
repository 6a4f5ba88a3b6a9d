"""The required files of a model folder, and verification against its manifest."""

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
    """`verify_folder` for a model folder, which may contain files of other programs.

    `weights=False` skips the hashes of weight files. Other listed files above `MAX_BYTES` are a `UserError`: hashing
    them could take arbitrarily long.
    """
    for name, fact in read_manifest(path)["files"].items():
        if fact["bytes"] > MAX_BYTES and not name.endswith((".safetensors", ".bin")):
            raise UserError(
                f"{Path(path) / name}: {fact['bytes']} bytes; a model folder's files besides weights have at most "
                f"{MAX_BYTES}"
            )
    return verify_folder(path, NEEDED, unread=None if weights else WEIGHTS)
