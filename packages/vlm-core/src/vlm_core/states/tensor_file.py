"""Safetensors files with a manifest in their metadata: written whole, verified by hashes before they are used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from vlm_core.errors import UserError, shown
from vlm_core.io.atomic import write_file
from vlm_core.io.checksum import verified, with_checksum
from vlm_core.io.digests import of_tensor
from vlm_core.io.files import JSON_VALUES
from vlm_core.model_folder.safetensors_file import WeightFile, opened

MANIFEST = "vlm_manifest"
"""Key of the manifest in the file's metadata; its value is a JSON object with a checksum."""
READ_FIRST = 4096
"""Bytes up to which a tensor is read before the shapes of all are checked."""


def write(path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a file atomically; `facts`, of plain data, are its manifest.

    Raises `UserError` for NaN and infinity, and if the file can't be written.
    """
    # copies: safetensors takes no tensors that share memory
    stored = {
        name: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, t in tensors.items()
    }
    refuse_not_finite(stored, path)
    hashes = {name: of_tensor(tensor) for name, tensor in stored.items()}
    manifest = json.dumps(with_checksum({**facts, "tensors": hashes}))
    write_file(path, save(stored, metadata={MANIFEST: manifest}))


def refuse_not_finite(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise `UserError` for a tensor with NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not (finite := tensor.isfinite()).all():
            raise UserError(
                f"{path}: {int((~finite).sum())} of the {tensor.numel()} numbers of {name!r} are NaN or infinite: "
                "the model's weights or the file are damaged"
            )


class TensorFile:
    """An open file: its manifest is verified, its tensors are checked when they are read."""

    def __init__(self, path: Path, file: WeightFile, kind: str) -> None:
        self.path, self._file = path, file
        text = file.metadata.get(MANIFEST)
        if text is None:
            raise UserError(f"{path}: a safetensors file, but no {kind}: it has no manifest")
        self.manifest = verified(text, path, JSON_VALUES)
        self._hashes = self.manifest.pop("tensors", None)
        if not isinstance(self._hashes, dict) or self._hashes.keys() != file.tensors.keys():
            raise UserError(f"{path}: damaged: its tensors are not those that its manifest lists")

    def outline(self) -> dict[str, Tensor]:
        """Small tensors, and all others on the meta device: what can be checked before memory is allocated."""
        outline = {}
        for name in self._file.tensors:
            tensor = self._file.outline(name)
            outline[name] = self._read(name) if tensor.nbytes <= READ_FIRST else tensor
        return outline

    def tensors(self, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
        """Those with a `wanted` name; raises `UserError` for content other than the manifest's, NaN and infinity."""
        tensors = {name: self._read(name) for name in self._file.tensors if wanted(name)}
        refuse_not_finite(tensors, self.path)
        return tensors

    def _read(self, name: str) -> Tensor:
        tensor = self._file.read(name)
        self._file.not_finite.clear()  # an error of its own
        if of_tensor(tensor) != self._hashes[name]:
            raise UserError(f"{self.path}: damaged: the content of {name!r} differs from its hash")
        return tensor


@contextmanager
def opened_tensors(path: str | Path, kind: str) -> Iterator[TensorFile]:
    """Context with an open file; raises `UserError` for anything that `write` did not write. `kind` names the file."""
    with opened(Path(path), kind) as file:
        yield TensorFile(Path(path), file, kind)


def require_format(manifest: Mapping[str, Any], name: str, version: int, path: object) -> None:
    """Raise `UserError` for a manifest of another format or version."""
    if manifest.get("format") != name:
        raise UserError(f"{path}: its format is {shown(manifest.get('format'))}, expected {name!r}")
    if manifest.get("version") != version:
        seen = shown(manifest.get("version"))
        raise UserError(f"{path}: version {seen} of the format {name}; this vlm-core reads version {version}")
