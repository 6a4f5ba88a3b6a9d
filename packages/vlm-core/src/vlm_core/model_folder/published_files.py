"""Tensors in published files: safetensors or PyTorch's, sharded or not; no pickled code is run."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from vlm_core.errors import UserError, one_line
from vlm_core.io.files import open_regular, read_json
from vlm_core.model_folder.checkpoint_errors import UNSAFE, listed
from vlm_core.model_folder.safetensors_file import check_header_size, format_of, header

INDEX = ".index.json"
_NAME = re.compile(r"[^\x00-\x1f\ud800-\udfff]{1,200}")
_POINTER = b"version https://git-lfs"


def read(path: Path, wrappers: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The tensors of a file, or of all shards of an index, by name; mapped from disk where the format allows it.

    `wrappers` are keys under which training scripts nest the state dict. Raises `UserError` naming the file.
    """
    if path.name.endswith(INDEX):
        return {name: tensor for shard in shards(path) for name, tensor in read(shard, wrappers).items()}
    return _tensors(path, _content(path), wrappers)


def number_formats(files: Sequence[Path]) -> dict[str, str]:
    """safetensors' name of each tensor's dtype, by the tensor's name; raises `UserError` as `read`."""
    dtypes: dict[str, str] = {}
    for file in files:
        if file.suffix == ".safetensors":
            dtypes |= {name: str(stored.dtype) for name, stored in header(file).items()}
        else:
            dtypes |= {name: format_of(tensor) for name, tensor in read(file).items()}
    return dtypes


def files_beside(folder: Path) -> list[Path]:
    """The weight files that transformers reads in a folder; raises `UserError` for an index of files elsewhere."""
    for index in sorted(folder.glob(f"*{INDEX}")):
        shards(index)
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))


def shards(index: Path) -> list[Path]:
    """The files that an index names; raises `UserError` for one that is missing or outside of its folder."""
    names = shard_names(index)
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise UserError(
            f"{index}: of {len(names)} files {len(missing)} are missing ({', '.join(missing[:3])}); "
            "the download did not finish"
        )
    return [index.parent / name for name in names]


def check_indexes(folder: Path) -> None:
    """Raise `UserError` if an index in a folder names a file outside of its folder, before a library opens it."""
    for index in sorted(folder.glob("*" + INDEX)):
        shard_names(index)


def shard_names(index: Path) -> list[str]:
    """The names in an index; raises `UserError` if one is no file name."""
    weight_map = read_json(index).get("weight_map")
    names = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
    if not names or any(
        Path(name).name != name or name.endswith(INDEX) or not _NAME.fullmatch(name) for name in names
    ):
        raise UserError(f"{index}: expected a weight_map from tensors to files beside it")
    return names


def _content(path: Path) -> object:
    with open_regular(path) as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise UserError(f"{path}: a pointer of git-lfs, not the weights; `git lfs pull` fetches them")
    try:
        if path.suffix == ".safetensors":
            check_header_size(path)
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_archive(path))
    except UserError:
        raise
    except pickle.UnpicklingError:
        raise UserError(f"{path}: {UNSAFE}") from None
    except Exception as error:  # readers raise many types for a damaged file
        raise UserError(
            f"{path}: not a readable weight file, perhaps a download that did not finish: {one_line(error, 150)}"
        ) from None


def _is_archive(path: Path) -> bool:
    """Whether this is PyTorch's zip archive; raises `UserError` for a compressed one, which PyTorch never writes."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size for m in members):
        raise UserError(f"{path}: a compressed archive; PyTorch writes none")
    return True


def _tensors(path: Path, content: object, wrappers: tuple[str, ...]) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        content = next((content[key] for key in wrappers if isinstance(content.get(key), Mapping)), content)
    tensors = content if isinstance(content, Mapping) else {}
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(
            f"{path}: expected tensors by name, got {type(content).__name__}; save a state_dict() alone"
        )
    size = path.stat().st_size
    invalid = [
        name
        for name, t in tensors.items()
        if t.layout != torch.strided or t.is_quantized or t.is_meta or t.nbytes > size
    ]
    if invalid:
        raise UserError(f"{path}: {listed('larger than the file, or not plain tensors', map(str, invalid))}")
    return dict(tensors)
