"""Tensors in published files: safetensors or PyTorch's, whole or in shards; no pickled code is run."""

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

    `wrappers` are keys under which training scripts put them. Raises `UserError` naming the file.
    """
    if path.name.endswith(INDEX):
        return {name: tensor for shard in shards(path) for name, tensor in read(shard, wrappers).items()}
    return _tensors(path, _content(path), wrappers)


def number_formats(files: Sequence[Path]) -> dict[str, str]:
    """What safetensors calls the number format of every tensor in these files; raises `UserError` as `read`."""
    found: dict[str, str] = {}
    for file in files:
        if file.suffix == ".safetensors":
            found |= {name: str(stored.dtype) for name, stored in header(file).items()}
        else:
            found |= {name: format_of(tensor) for name, tensor in read(file).items()}
    return found


def files_beside(folder: Path) -> list[Path]:
    """The weight files that transformers reads in a folder; raises `UserError` for an index of files elsewhere."""
    for index in sorted(folder.glob(f"*{INDEX}")):
        shards(index)
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))


def shards(index: Path) -> list[Path]:
    """The files that an index names, all of them beside it."""
    names = shard_names(index)
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise UserError(
            f"{index}: of {len(names)} files {len(missing)} are missing ({', '.join(missing[:3])}); "
            "the download did not finish"
        )
    return [index.parent / name for name in names]


def check_indexes(folder: Path) -> None:
    """Raise `UserError` if an index in a folder names a file that is not beside it, before a library opens that."""
    for index in sorted(folder.glob("*" + INDEX)):
        shard_names(index)


def shard_names(index: Path) -> list[str]:
    """The names in an index; raises `UserError` if one of them leads elsewhere."""
    found = read_json(index).get("weight_map")
    names = sorted(set(map(str, found.values()))) if isinstance(found, dict) else []
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
    except Exception as error:  # the readers raise whatever a damaged file makes them stumble over
        raise UserError(
            f"{path}: not a readable weight file, perhaps a download that did not finish: {one_line(error, 150)}"
        ) from None


def _is_archive(path: Path) -> bool:
    """Whether this is PyTorch's zip archive; one that is compressed, as PyTorch never writes it, is refused."""
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
    odd = [
        name
        for name, t in tensors.items()
        if t.layout != torch.strided or t.is_quantized or t.is_meta or t.nbytes > size
    ]
    if odd:
        raise UserError(f"{path}: {listed('larger than the file, or not plain tensors', map(str, odd))}")
    return dict(tensors)
