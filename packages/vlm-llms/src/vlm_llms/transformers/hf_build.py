"""Building a `TransformersLM` from a hub id or a folder."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.hub import cached_file

from vlm_core.errors import UserError, one_line
from vlm_core.interfaces import Tokenizer
from vlm_core.model_folder.checkpoint_errors import UNSAFE, listed, shape_of
from vlm_core.model_folder.load import check_plan
from vlm_core.model_folder.published_files import check_indexes, files_beside, number_formats
from vlm_core.model_folder.safetensors_file import warn_not_finite
from vlm_core.model_folder.weights import copy_from_mapped_files
from vlm_core.plugins.layer_counts import check_config_file
from vlm_core.plugins.local_code import OPTION, refuse_references
from vlm_core.runtime.verbosity import without_progress_bars
from vlm_llms.tokenizer.tokenizer import FastTokenizer
from vlm_llms.transformers.hf_adapter import TransformersLM
from vlm_llms.transformers.hf_architecture import architecture, check_agreement
from vlm_llms.transformers.hf_verify import verify

QUANTISED = 8
"""Parameters in a byte of a quantised file, at most."""
_FLOATS = {"F64", "F32", "F16", "BF16"}


def build(
    model: str,
    *,
    load_tokenizer: Callable[[], Tokenizer],
    dtype: str = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
    config: dict[str, Any] | None = None,
    weights: bool = True,
    assets: Path | None = None,
) -> TransformersLM:
    """Build the model, load its `weights`, and verify the adapter on it.

    With `config` and without weights no file is read; with weights the two must agree. Raises `UserError` for files
    that are missing or don't fit, and for a model that violates the adapter's contract.
    """
    number = getattr(torch, dtype)
    if assets is None:
        check_indexes(Path(model))
    else:
        refuse_references(assets)
    remote = _remote(revision, trust_remote_code)
    check_config_file(model if assets is None else assets)
    try:
        if weights:
            if not trust_remote_code:
                _check_size(Path(model))
            inner = _with_weights(model, number, remote)
        else:
            if config is not None and assets is None:
                blueprint = architecture(config)
            else:
                blueprint = AutoConfig.from_pretrained(model if assets is None else str(assets), **remote)
            inner = AutoModelForCausalLM.from_config(
                blueprint, dtype=number, trust_remote_code=trust_remote_code
            )
    except UserError:
        raise
    except Exception as error:  # transformers and its file readers raise various errors
        raise UserError(_why_not(model, error)) from error
    if weights and config is not None:
        check_agreement(config, inner.config, model)
    lm = TransformersLM(inner, load_tokenizer)
    verify(lm)
    return lm


def _check_size(folder: Path) -> None:
    """Raise `UserError` for a local folder whose weight files can't hold the model that its config.json describes."""
    if not (folder / "config.json").is_file():
        return
    files = files_beside(folder)
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    per_byte = QUANTISED if hasattr(config, "quantization_config") else 2
    check_plan(lambda: AutoModelForCausalLM.from_config(config), files, folder / "config.json", per_byte)


def _remote(revision: str | None, trust_remote_code: bool) -> dict[str, Any]:
    """Arguments of every call that may download; always explicit, else transformers prompts on the terminal."""
    arguments: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        arguments["revision"] = revision
    if trust_remote_code:
        arguments["code_revision"] = revision
    return arguments


def _why_not(model: str, error: Exception) -> str:
    reason = UNSAFE if isinstance(error, pickle.UnpicklingError) else one_line(error)
    code = (
        "; to run the code that comes with it, read it, then set trust_remote_code: true and revision to the commit"
        f"{f', and give {OPTION}' if Path(model).is_dir() else ''}"
        if "trust_remote_code" in str(error)
        else ""
    )
    return (
        f"llm model {model!r}: transformers could not load it: {type(error).__name__}: {reason.rstrip('. ')}. "
        "Expected a hub id or a folder with config.json and safetensors of a causal language model; "
        f"without the hub, name a local copy: model: path/to/folder, or for --check alone give its config{code}"
    )


def _with_weights(model: str, dtype: torch.dtype, remote: dict[str, Any]) -> Any:
    """The model with all tensors of its files; transformers would initialise missing ones at random."""
    with without_progress_bars():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            model, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **remote
        )
    inner, info = loaded
    shapes = [
        f"{name}: {shape_of(stored)} instead of {shape_of(expected)}"
        for name, stored, expected in sorted(info["mismatched_keys"])
    ]
    what = type(inner).__name__
    problems = [
        listed(f"missing from the files, though {what} needs them", sorted(info["missing_keys"])),
        listed(f"in the files, though {what} has no such tensor", sorted(info["unexpected_keys"])),
        listed(f"of another shape in the files than in {what}", shapes),
        *([] if hasattr(inner.config, "quantization_config") else [_not_floats(model, remote)]),
    ]
    if any(problems):
        raise UserError(f"llm model {model!r}: {'; '.join(filter(None, problems))}")
    warn_not_finite(dict(inner.named_parameters()), model)
    if not hasattr(inner.config, "quantization_config"):
        copy_from_mapped_files(inner)
    return inner


def _not_floats(model: str, remote: dict[str, Any]) -> str:
    """Weights in other formats than floating point, which transformers would cast silently to noise."""
    config = cached_file(model, "config.json", revision=remote.get("revision"))
    kinds = number_formats(files_beside(Path(config or "").parent))
    wrong = [
        f"{name}: {kind}" for name, kind in kinds.items() if name.endswith(".weight") and kind not in _FLOATS
    ]
    return listed("quantised, though config.json names no quantisation", wrong)


def from_folder(assets: Path, dtype: str) -> TransformersLM:
    """The architecture that `save_assets` wrote, without weights."""
    return build(
        str(assets),
        load_tokenizer=lambda: FastTokenizer.load(assets),
        dtype=dtype,
        weights=False,
        assets=assets,
    )
