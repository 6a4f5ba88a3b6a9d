"""From a hub id or a folder to a `TransformersLM`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from vlm_core.errors import UserError
from vlm_core.interfaces import Tokenizer
from vlm_llms.hf_adapter import TransformersLM, verify


def build(
    model: str,
    *,
    load_tokenizer: Callable[[], Tokenizer],
    dtype: str = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
    weights: bool = True,
    assets: Path | None = None,
) -> TransformersLM:
    """Build the model, read its weights if wanted, and check the wrapper against it."""
    number = getattr(torch, dtype)
    remote = _remote(revision, trust_remote_code)
    try:
        if weights:
            inner = AutoModelForCausalLM.from_pretrained(model, dtype=number, **remote)
        else:
            blueprint = AutoConfig.from_pretrained(model if assets is None else str(assets), **remote)
            inner = AutoModelForCausalLM.from_config(
                blueprint, dtype=number, trust_remote_code=trust_remote_code
            )
    except (OSError, ValueError, ImportError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise UserError(
            f"llm model {model!r}: transformers could not load it: {first} Expected a hub id or a folder "
            "with config.json and safetensors of a causal language model; offline, give the folder"
        ) from error
    lm = TransformersLM(inner, load_tokenizer)
    verify(lm)
    return lm


def _remote(revision: str | None, trust_remote_code: bool) -> dict[str, Any]:
    """Arguments of every call that might fetch; always explicit, else transformers asks on the terminal."""
    found: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        found["revision"] = revision
    if trust_remote_code:
        found["code_revision"] = revision
    return found
