"""Weight files of an encoder, from paths, folders and installed packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.model_folder import published_files
from vlm_core.model_folder.published_files import INDEX
from vlm_core.model_folder.safetensors_file import warn_not_finite

PACKAGE = "python:"
WRAPPERS = ("state_dict", "model")
"""Keys under which training scripts save the tensors of a model."""
IN_FOLDERS = tuple(
    stem + ending
    for endings in ((".safetensors", ".safetensors" + INDEX), (".bin", ".bin" + INDEX, ".pth"))
    for stem in ("model", "pytorch_model", "open_clip_model", "open_clip_pytorch_model")
    for ending in endings
)
"""Names of weight files in a hub repository; the first existing one is read."""


def locate(where: str) -> Path:
    """A file, a folder that holds one, or `python:<package>/<path inside it>`, without importing it."""
    if not where.startswith(PACKAGE):
        path = Path(where)
        if path.is_dir():
            return in_folder(path)
        if not path.is_file():
            raise UserError(f"{where}: no such weight file or folder")
        return path
    package, _, inside = where.removeprefix(PACKAGE).partition("/")
    top, *parents = package.split(".")
    spec = importlib.util.find_spec(top) if top else None
    if spec is None or not inside:
        reason = f"the package {top!r} is not installed" if inside else "expected python:<package>/<path>"
        raise UserError(f"{where}: {reason}")
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, *parents, inside)
        if path.is_file():
            return path
    raise UserError(f"{where}: the package {top!r} is installed but holds no such file")


def in_folder(folder: Path) -> Path:
    """The weight file, or the index of its shards, in a copy of a hub repository."""
    file = next((folder / name for name in IN_FOLDERS if (folder / name).is_file()), None)
    if file is None:
        raise UserError(
            f"{folder}: holds no weights; looked for {IN_FOLDERS[0]}, pytorch_model.bin, their {INDEX} "
            "and open_clip's names; name the file itself if it has another"
        )
    return file


def files(path: Path) -> list[Path]:
    """The file, or the shards of an index."""
    return published_files.shards(path) if path.name.endswith(INDEX) else [path]


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file or of all shards of an index, by name, without the wrapper of a training script."""
    tensors = published_files.read(path, WRAPPERS)
    warn_not_finite(tensors, path)
    return tensors
