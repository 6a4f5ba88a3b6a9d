"""Architecture of a transformers model from the key `config` of a spec, which has the content of config.json."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from vlm_core.errors import UserError, choices, shown
from vlm_core.plugins.layer_counts import check_layers

_LEGACY = {"rope_theta", "rope_scaling", "torch_dtype"}
"""Keys of older config.json files, which transformers converts."""
_NOT_ARCHITECTURE = {"dtype", "torch_dtype", "transformers_version", "architectures", "model_type"}


def architecture(fields: dict[str, Any]) -> PreTrainedConfig:
    """The configuration that `fields` describes; raises `UserError` for an unknown model_type or key."""
    kind = fields.get("model_type")
    if not isinstance(kind, str):
        raise UserError(f"llm config needs model_type, as config.json has it; got {shown(kind)}")
    check_layers(fields, "llm config")
    try:
        config = AutoConfig.for_model(**fields)
    except Exception as error:  # configuration classes raise various errors
        raise UserError(f"llm config: {' '.join(str(error).split())[:200]}") from None
    known = set(type(config)().to_dict()) | set(config.attribute_map) | _LEGACY
    if unknown := [key for key in fields if key not in known]:
        raise UserError(f"llm config: {kind} has no key {unknown[0]!r}{choices(unknown[0], known)}")
    return config


def check_agreement(fields: dict[str, Any], loaded: PreTrainedConfig, model: str) -> None:
    """Raises `UserError` if the loaded model differs from the spec's `fields`."""
    expected = architecture(fields)
    if expected.model_type != loaded.model_type:
        raise UserError(
            f"llm config has model_type {expected.model_type!r}, but {model} is {loaded.model_type!r}"
        )
    wrong = [
        f"{key} {getattr(expected, key)!r} for {getattr(loaded, key, None)!r}"
        for key in fields
        if key not in _NOT_ARCHITECTURE | _LEGACY and getattr(expected, key) != getattr(loaded, key, None)
    ]
    if wrong:
        raise UserError(
            f"llm config does not describe {model}: {', '.join(wrong)}; correct it or leave it out"
        )


def stored_bytes(fields: dict[str, Any]) -> int:
    """Size of the checkpoint: parameters in the `dtype` that config.json names, fp32 if none."""
    config = architecture(fields)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=config.dtype or torch.float32)
    return sum(parameter.nbytes for parameter in model.parameters())
