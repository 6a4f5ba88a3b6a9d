"""Builds a folder's model from the installed packages. A folder exported with its code has its own version of this."""

from __future__ import annotations

from pathlib import Path

from vlm_core.model import VLM
from vlm_core.model_folder.assemble import architecture
from vlm_core.spec.spec import load_folder_spec


def build(folder: Path, *, trust_remote_code: bool = False) -> VLM:
    """The architecture in the folder's spec.yaml, without weights.

    Raises `UserError` if it needs code of the folder and `trust_remote_code` is false.
    """
    return architecture(load_folder_spec(folder, trust_remote_code=trust_remote_code), folder)
