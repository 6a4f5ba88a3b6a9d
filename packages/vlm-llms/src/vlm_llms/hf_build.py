"""From a hub id or a folder to a `TransformersLM`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlm_core.errors import UserError
from vlm_llms.configs import TransformersLLMConfig, load_tokenizer
from vlm_llms.hf_adapter import TransformersLM, verify


def _remote(config: TransformersLLMConfig) -> dict[str, Any]:
    """Arguments of every call that might fetch; always explicit, else transformers asks on the terminal."""
    found: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if config.revision is not None:
        found["revision"] = config.revision
    if config.trust_remote_code:
        found["code_revision"] = config.revision
    return found


def build(config: TransformersLLMConfig, weights: bool, assets: Path | None) -> TransformersLM:
    """Build the model, read its weights if wanted, and check the wrapper against it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    dtype, remote = getattr(torch, config.dtype), _remote(config)
    try:
        if weights:
            model = AutoModelForCausalLM.from_pretrained(config.model, dtype=dtype, **remote)
        else:
            source = config.model if assets is None else str(assets)
            blueprint = AutoConfig.from_pretrained(source, **remote)
            model = AutoModelForCausalLM.from_config(
                blueprint, dtype=dtype, trust_remote_code=config.trust_remote_code
            )
    except (OSError, ValueError, ImportError) as error:
        raise UserError(_explained(config, error)) from error
    name = config.tokenizer or config.model
    lm = TransformersLM(model, lambda: load_tokenizer(name, assets, revision=config.revision))
    verify(lm)
    return lm


def _explained(config: TransformersLLMConfig, error: Exception) -> str:
    first = str(error).strip().split("\n", 1)[0]
    return (
        f"llm model {config.model!r}: transformers could not load it: {first} Expected a hub id or a folder "
        "with config.json and safetensors of a causal language model; offline, give the folder"
    )
