"""Published Mamba-1 checkpoints in the `state-spaces` and the transformers format, recognised by their content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from vlm_core.errors import UserError, shown
from vlm_core.model_folder.checkpoint_errors import listed, shape_of
from vlm_core.model_folder.load import check_size
from vlm_llms.checkpoint_files import CONFIG, folder_of, read_config, read_tensors, weight_files
from vlm_llms.mamba.mamba import MambaLM
from vlm_llms.mamba.mamba_shape import MambaShape

EMBEDDING = "backbone.embedding.weight"
HF_EMBEDDING = "backbone.embeddings.weight"
HEAD = "lm_head.weight"
MULTIPLE = 8
"""Vocabularies are padded to a multiple of this."""

_HF_FIXED = {
    "use_bias": False,
    "use_conv_bias": True,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "layer_norm_epsilon": 1e-5,
}
_HF_SIZES = ("hidden_size", "num_hidden_layers", "vocab_size", "state_size", "conv_kernel", "expand")
_SIZES = (*_HF_SIZES, "d_model", "n_layer", "pad_vocab_size_multiple")
_FIXED = {"rms_norm": True, "tie_embeddings": True, "d_intermediate": 0, "attn_layer_idx": []}
_SSM_FIXED = {"layer": "Mamba1", "bias": False, "conv_bias": True}


def padded(rows: int, multiple: int = MULTIPLE) -> int:
    """`rows` rounded up to a multiple."""
    return -(-rows // multiple) * multiple


def read_shape(source: str, revision: str | None = None) -> MambaShape:
    """The architecture from config.json of either format; `UserError` if it is no supported Mamba-1."""
    folder = folder_of(source, revision, weights=False)
    path, config = folder / CONFIG, read_config(folder)
    if config.get("model_type") not in (None, "mamba"):
        raise UserError(
            f"{path}: holds a {config['model_type']!r} model; this reads Mamba-1 (model_type mamba). "
            "transformers may know it: llm: {type: transformers, model: …}"
        )
    _check_types(path, config)
    try:
        fields = _hf_fields(path, config) if "hidden_size" in config else _fields(path, config)
        return MambaShape(**fields)
    except KeyError as error:
        raise UserError(f"{path}: no Mamba config: key {error} is missing") from None
    except (ValidationError, TypeError) as error:
        raise UserError(f"{path}: no Mamba config: {str(error).replace(chr(10), ' ')}") from None


def _check_types(path: Path, config: dict[str, Any]) -> None:
    """Raise `UserError` unless sizes are integers above 0 and `ssm_cfg` is an object; `MambaShape` bounds the sizes."""
    for key in _SIZES:
        value = config.get(key, 1)
        if not isinstance(value, int) or not 0 < value < 2**31:
            raise UserError(
                f"{path}: no Mamba config: {key} is {shown(value)}; expected a whole number above 0"
            )
    if not isinstance(config.get("ssm_cfg") or {}, dict):
        raise UserError(f"{path}: ssm_cfg is {shown(config['ssm_cfg'])}; expected an object")


def _demand(path: Path, config: dict[str, Any], fixed: dict[str, Any]) -> None:
    """Raise `UserError` for variants with the same tensors that compute something else."""
    for key, wanted in fixed.items():
        if (value := config.get(key, wanted)) != wanted:
            raise UserError(f"{path}: {key} is {value!r}; vlm-llms' Mamba-1 supports {wanted!r} only")


def _hf_fields(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    expand, width = config.get("expand", 2), config["hidden_size"]
    _demand(path, config, {**_HF_FIXED, "intermediate_size": expand * width})
    rank = config.get("time_step_rank", "auto")
    return {
        "d_model": width,
        "n_layer": config["num_hidden_layers"],
        "vocab_size": config["vocab_size"],
        "d_state": config.get("state_size", 16),
        "d_conv": config.get("conv_kernel", 4),
        "expand": expand,
        "dt_rank": None if rank == "auto" else rank,
    }


def _fields(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    ssm = config.get("ssm_cfg") or {}
    _demand(path, config, _FIXED)
    _demand(path, ssm, _SSM_FIXED)
    rank = ssm.get("dt_rank", "auto")
    known = {key: ssm[key] for key in ("d_state", "d_conv", "expand") if key in ssm}
    return {
        "d_model": config["d_model"],
        "n_layer": config["n_layer"],
        "vocab_size": padded(config["vocab_size"], config.get("pad_vocab_size_multiple", MULTIPLE)),
        "dt_rank": None if rank == "auto" else rank,
        **known,
    }


def read_state(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint under the names of the `state-spaces` format, without the tied output matrix."""
    state = read_tensors(folder)
    if HF_EMBEDDING in state:
        state[EMBEDDING] = state.pop(HF_EMBEDDING)
    head, embedding = state.pop(HEAD, None), state.get(EMBEDDING)
    if head is not None and embedding is not None and not torch.equal(head, embedding):
        raise UserError(f"{folder}: {HEAD} differs from {EMBEDDING}; vlm-llms' Mamba-1 shares one matrix")
    return state


def _fit_vocabulary(table: Tensor, rows: int) -> Tensor:
    """Add zero rows, or cut rows, that only pad the vocabulary; any other table is returned unchanged."""
    if padded(len(table)) != padded(rows):
        return table
    return F.pad(table, (0, 0, 0, rows - len(table))) if rows > len(table) else table[:rows]


def check_config(shape: MambaShape, source: str, revision: str | None = None) -> None:
    """Raise `UserError` if a checkpoint's config.json has another shape than the model built for its name."""
    if (config_shape := read_shape(source, revision)) != shape:
        raise UserError(
            f"{source}: its {CONFIG} describes {config_shape}, but the published model of this name is {shape}"
        )


def check_shape(shape: MambaShape, source: str, revision: str | None = None) -> None:
    """Raise `UserError` for a shape of which the weight files can't hold half, before memory is allocated."""
    folder = folder_of(source, revision)
    check_size(shape.parameters(), weight_files(folder), folder / CONFIG)


def load_weights(model: MambaLM, source: str, revision: str | None = None) -> None:
    """Fill `model` from a checkpoint of any floating-point type; raises `UserError` for tensors that do not fit."""
    folder = folder_of(source, revision)
    stored, params = read_state(folder), model.state_dict()
    if EMBEDDING in stored:
        stored[EMBEDDING] = _fit_vocabulary(stored[EMBEDDING], model.vocab_size)
    shapes = [
        f"{name}: {shape_of(stored[name].shape)} instead of {shape_of(params[name].shape)}"
        for name in params
        if name in stored and params[name].shape != stored[name].shape
    ]
    problems = [
        listed("missing from the file, though the model needs them", [k for k in params if k not in stored]),
        listed("in the file, though the model has no such tensor", [k for k in stored if k not in params]),
        listed("of another shape in the file than in the model", shapes),
    ]
    if any(problems):
        other = (
            ""
            if params.keys() & stored.keys()
            else "no tensor name matches, so it is a checkpoint of another model: "
        )
        raise UserError(f"{folder}: does not fit this Mamba: {other}{'; '.join(filter(None, problems))}")
    model.load_state_dict(stored)
