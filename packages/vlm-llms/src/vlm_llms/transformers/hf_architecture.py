"""Architecture of a transformers model from the key `config` of a spec, with the content of its config.json."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from vlm_core.errors import UserError, choices, shown
from vlm_core.plugins.layer_counts import check_layers

_LEGACY = {
    "rope_theta",
    "rope_scaling",
    "torch_dtype",
}  # of older config.json files; transformers converts them
_NOT_ARCHITECTURE = {"dtype", "torch_dtype", "transformers_version", "architectures", "model_type"}


def architecture(given: dict[str, Any]) -> PreTrainedConfig:
    """The configuration that `given` describes; raises `UserError` for a type or key that transformers lacks."""
    kind = given.get("model_type")
    if not isinstance(kind, str):
        raise UserError(f"llm config needs model_type, as config.json has it; got {shown(kind)}")
    check_layers(given, "llm config")
    try:
        config = AutoConfig.for_model(**given)
    except Exception as error:  # each configuration class checks its values in its own way
        raise UserError(f"llm config: {' '.join(str(error).split())[:200]}") from None
    known = set(type(config)().to_dict()) | set(config.attribute_map) | _LEGACY
    if unknown := [key for key in given if key not in known]:
        raise UserError(f"llm config: {kind} has no key {unknown[0]!r}{choices(unknown[0], known)}")
    return config


def check_agreement(given: dict[str, Any], found: PreTrainedConfig, model: str) -> None:
    """Raises `UserError` if the model that was loaded is not the one that the spec describes."""
    expected = architecture(given)
    if expected.model_type != found.model_type:
        raise UserError(
            f"llm config says model_type {expected.model_type!r}, but {model} is {found.model_type!r}"
        )
    wrong = [
        f"{key} {getattr(expected, key)!r} for {getattr(found, key, None)!r}"
        for key in given
        if key not in _NOT_ARCHITECTURE | _LEGACY and getattr(expected, key) != getattr(found, key, None)
    ]
    if wrong:
        raise UserError(
            f"llm config does not describe {model}: {', '.join(wrong)}; correct it or leave it out"
        )


def stored_bytes(given: dict[str, Any]) -> int:
    """Size of the checkpoint: parameters in the `dtype` that config.json names, fp32 if none."""
    config = architecture(given)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=config.dtype or torch.float32)
    return sum(parameter.nbytes for parameter in model.parameters())
