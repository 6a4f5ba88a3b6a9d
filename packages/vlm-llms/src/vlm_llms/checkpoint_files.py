"""Checkpoint files: download, config.json, and tensors of a single file or of shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.io.files import read_json
from vlm_core.model_folder import published_files
from vlm_core.model_folder.checkpoint_errors import listed
from vlm_core.model_folder.safetensors_file import warn_not_finite

CONFIG = "config.json"
_SAFE = ("model.safetensors.index.json", "model.safetensors")
_PICKLED = ("pytorch_model.bin.index.json", "pytorch_model.bin")


def folder_of(source: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """A local folder, or the snapshot of a hub id; files are downloaded unless cached.

    Without `weights` only config.json is downloaded. Raises `UserError` if that fails.
    """
    if Path(source).is_dir():
        return Path(source)
    if not weights:
        return _download(source, revision, [CONFIG])
    folder = _download(source, revision, [CONFIG, "*.safetensors", "*.safetensors.index.json"])
    if any((folder / name).exists() for name in _SAFE):
        return folder
    return _download(source, revision, [CONFIG, "*.bin", "*.bin.index.json"])


def _download(source: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(
            f"llm weights {source!r}: no such folder, and the hub could not provide it "
            f"({type(error).__name__}); name a local copy: weights: path/to/folder with config.json"
        ) from None


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint; `UserError` if it is missing or holds no object."""
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder / CONFIG}: missing; a checkpoint folder holds config.json and the weights")
    return read_json(folder / CONFIG)


def _weights(folder: Path) -> Path:
    """The weight file, or the index of its shards."""
    files = (*_SAFE, *_PICKLED)
    file = next((folder / name for name in files if (folder / name).exists()), None)
    if file is None:
        raise UserError(f"{folder}: no weights; expected one of {', '.join(files)}")
    return file


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a checkpoint's tensors."""
    file = _weights(folder)
    return published_files.shards(file) if file.name.endswith(published_files.INDEX) else [file]


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All floating-point tensors of a checkpoint folder by name; safetensors are preferred to pickles."""
    tensors = published_files.read(_weights(folder))
    wrong = [f"{k}: {v.dtype}" for k, v in tensors.items() if not v.is_floating_point() or v.itemsize < 2]
    if wrong:
        raise UserError(
            f"{folder}: {listed('not in fp16, bf16 or fp32', wrong)}; quantised files can't be read, get the originals"
        )
    warn_not_finite(tensors, folder)
    return tensors
