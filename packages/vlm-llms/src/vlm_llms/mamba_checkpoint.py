"""Reads published Mamba-1 checkpoints: the `state-spaces` format and the transformers format."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vlm_core.errors import UserError
from vlm_llms.mamba import MambaLM
from vlm_llms.mamba_shape import MambaShape

_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)


def _folder(source: str, patterns: list[str]) -> Path:
    """A local folder as it is; a hub id downloaded (or taken from the hub's cache)."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(
            f"llm weights {source!r}: not a folder here, and the hub does not give it "
            f"({type(error).__name__}); name a local copy: weights: path/to/folder with config.json"
        ) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; a checkpoint folder holds config.json and the weights") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None


def read_shape(source: str) -> MambaShape:
    """The architecture from config.json of either format; `UserError` if it is no Mamba-1."""
    path = _folder(source, ["config.json"]) / "config.json"
    config = _json(path)
    if config.get("model_type") not in (None, "mamba"):
        raise UserError(
            f"{path}: holds a {config['model_type']!r} model; this reads Mamba-1 (model_type mamba)"
        )
    try:
        if "hidden_size" in config:
            return MambaShape(
                d_model=config["hidden_size"], n_layer=config["num_hidden_layers"],
                vocab_size=config["vocab_size"], d_state=config.get("state_size", 16),
                d_conv=config.get("conv_kernel", 4), expand=config.get("expand", 2),
                dt_rank=None if config.get("time_step_rank", "auto") == "auto" else config["time_step_rank"],
            )  # fmt: skip
        multiple, ssm = config.get("pad_vocab_size_multiple", 8), config.get("ssm_cfg") or {}
        rows = -(-config["vocab_size"] // multiple) * multiple
        known = {key: ssm[key] for key in ("d_state", "d_conv", "expand", "dt_rank") if key in ssm}
        return MambaShape(d_model=config["d_model"], n_layer=config["n_layer"], vocab_size=rows, **known)
    except KeyError as error:
        raise UserError(f"{path}: no Mamba config: key {error} is missing") from None


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise UserError(f"{path}: missing") from None
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{path}: not a readable weight file: {str(error).splitlines()[0]:.150}") from None


def read_state(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, sharded or not, under the names of the `state-spaces` format."""
    found = next((folder / name for name in _FILES if (folder / name).exists()), None)
    if found is None:
        raise UserError(f"{folder}: no weights; expected one of {', '.join(_FILES)}")
    shards = sorted(set(_json(found)["weight_map"].values())) if found.suffix == ".json" else [found.name]
    state = {k: v for shard in shards for k, v in _read_tensors(folder / shard).items()}
    state = {k.replace("backbone.embeddings.", "backbone.embedding."): v for k, v in state.items()}
    state.pop("lm_head.weight", None)  # tied to the embedding
    return state


def load_weights(model: MambaLM, source: str) -> None:
    """Fill `model` from a checkpoint; every missing, unexpected or misshapen tensor is an error."""
    folder = _folder(source, ["config.json", "*.safetensors", "*.bin", "*.index.json"])
    stored, own = read_state(folder), model.state_dict()
    faults = [f"missing {k}" for k in own.keys() - stored.keys()]
    faults += [f"unexpected {k}" for k in stored.keys() - own.keys()]
    for k in own.keys() & stored.keys():
        if own[k].shape != stored[k].shape:
            faults.append(f"{k} is {tuple(stored[k].shape)}, expected {tuple(own[k].shape)}")
    if faults:
        raise UserError(
            f"{folder}: {len(faults)} tensors don't fit this model: {'; '.join(sorted(faults)[:3])}"
        )
    model.load_state_dict(stored)
