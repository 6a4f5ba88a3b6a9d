"""From a model folder to its architecture, by the installed packages; a folder with code has another such file."""

from __future__ import annotations

from pathlib import Path

from vlm_core.model import VLM
from vlm_core.model_folder.assemble import architecture
from vlm_core.spec.spec import load_folder_spec


def build(folder: Path, *, trust_remote_code: bool = False) -> VLM:
    """The model of the folder's spec.yaml, without weights; code of the folder runs only with `trust_remote_code`."""
    return architecture(load_folder_spec(folder, trust_remote_code=trust_remote_code), folder)
