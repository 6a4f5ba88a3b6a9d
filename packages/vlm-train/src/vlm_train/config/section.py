"""The `train` section of a spec, validated without torch."""

from __future__ import annotations

from vlm_core.errors import UserError
from vlm_core.io.yaml_loader import Document
from vlm_core.spec.spec import Spec
from vlm_core.spec.validate import validate
from vlm_train.config.train import TrainConfig


def train_section(spec: Spec, document: Document) -> TrainConfig:
    """The validated `train` section; `UserError` if there is none."""
    if spec.train is None:
        raise UserError(f"{document.file}: has no train section; vlm-assemble builds models without training")
    return validate(TrainConfig, document, ("train",))
