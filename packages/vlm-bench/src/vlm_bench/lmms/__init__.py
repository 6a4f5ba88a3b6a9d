"""`lmms_eval --model vlm`: lmms-eval finds `manifest` by the entry point and loads the class on demand."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """What lmms-eval registers."""
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]  # an extra

    return ModelManifest("vlm", simple_class_path="vlm_bench.lmms.model.SavedVLM")
