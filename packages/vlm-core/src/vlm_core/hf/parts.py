"""From a model folder to its architecture, by the installed packages; a folder with code has another such file."""

from __future__ import annotations

from pathlib import Path

from vlm_core.assemble import architecture
from vlm_core.model import VLM
from vlm_core.spec import load_spec


def build(folder: Path) -> VLM:
    """The model of the folder's spec.yaml, without weights."""
    return architecture(load_spec(folder / "spec.yaml")[0], folder)
