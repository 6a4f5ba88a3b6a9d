"""What a run says before it starts: where weights come from, and which facts of them it goes by."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from vlm_core.errors import UserError
from vlm_core.initial_weights import never_trained, weight_rows
from vlm_core.model import VLM
from vlm_core.preprocessing import preprocessing_rows
from vlm_core.spec import Spec
from vlm_train.config import Stage, TrainConfig


def facts(spec: Spec, model: VLM) -> list[str]:
    """A line for each part's weights and for each fact of the encoder's."""
    lines = [f"weights of {part}, {label}: {source}" for part, label, source in weight_rows(spec)]
    rows = preprocessing_rows(model.encoder)
    lines += [f"{tower or 'encoder'}: {key} {value} (from {source})" for tower, key, value, source in rows]
    return lines if rows else [*lines, f"image preprocessing: not told by {spec.encoder.type_name()}"]


def refuse_random(spec: Spec, train: TrainConfig, model: VLM) -> None:
    """Raise `UserError` for parts at random values of which nothing is trained, by patterns of `frozen`, too."""
    trained = {part for stage in train.stages for part in _trained_parts(stage, model)}
    if idle := never_trained(spec, trained):
        raise UserError("; ".join(text for _, text in idle))


def _trained_parts(stage: Stage, model: VLM) -> Iterator[str]:
    """Parts of which the stage trains a parameter of their own; adapters are none."""
    for part in stage.trains:
        names = [f"{part}.{name}" for name, _ in getattr(model, part).named_parameters()]
        kept = [n for n in names if not any(fnmatchcase(n, pattern) for pattern in stage.frozen)]
        if kept and not (part == "llm" and stage.lora):
            yield part
