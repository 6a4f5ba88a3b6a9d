"""The `train` section of a spec, validated without torch."""

from __future__ import annotations

from vlm_core.errors import UserError
from vlm_core.spec import Spec
from vlm_core.validate import validate
from vlm_core.yaml_loader import Document
from vlm_train.config import TrainConfig


def train_section(spec: Spec, document: Document) -> TrainConfig:
    """The validated `train` section; `UserError` if there is none."""
    if spec.train is None:
        raise UserError(f"{document.file}: has no train section; vlm-assemble builds models without training")
    return validate(TrainConfig, document, ("train",))
