"""Lines that a run logs before it starts: the source of each part's weights, and the encoder's preprocessing."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch

from vlm_core.diagnose.model_summary import ModelSummary
from vlm_core.model import VLM
from vlm_core.model_folder.initial_weights import never_trained, weight_rows
from vlm_core.preprocessing import preprocessing_rows
from vlm_core.spec.spec import Spec
from vlm_train.config.train import TrainConfig


def summary(
    spec: Spec, train: TrainConfig, model: VLM, sums: ModelSummary, device: torch.device
) -> list[str]:
    """A line with the size of the model, then those of `facts` and `frozen_random`."""
    threads = torch.get_num_threads()
    model_size = (
        f"{spec.name}: {sums.total / 1e6:.2f} M parameters, {sums.tokens} tokens per image, "
        f"{threads} thread{'s' * (threads != 1)} on {device}"
    )
    return [model_size, *facts(spec, model), *frozen_random(spec, train, model)]


def facts(spec: Spec, model: VLM) -> list[str]:
    """A line for each part's weights and for each value of the encoder's preprocessing."""
    lines = [f"weights of {part}, {label}: {source}" for part, label, source in weight_rows(spec)]
    rows = preprocessing_rows(model.encoder)
    lines += [f"{tower or 'encoder'}: {key} {value} (from {source})" for tower, key, value, source in rows]
    return lines if rows else [*lines, f"image preprocessing: not reported by {spec.encoder.type_name()}"]


def frozen_random(spec: Spec, train: TrainConfig, model: VLM) -> list[str]:
    """A line for each randomly initialised part of which `frozen` freezes all, though a stage names it `trainable`."""
    parts = sorted({part for part, _ in never_trained(spec, _trained_parts(train, model))})
    return [
        f"{part}: its values are random, and `frozen` names all of its parameters: no stage trains it"
        for part in parts
    ]


def _trained_parts(train: TrainConfig, model: VLM) -> set[str]:
    """Parts of which a stage trains a parameter; adapters do not count."""
    return {
        part
        for stage in train.stages
        for part in stage.trained_parts()
        for name, _ in getattr(model, part).named_parameters()
        if not any(fnmatchcase(f"{part}.{name}", pattern) for pattern in stage.frozen)
    }
