"""Digests of files, data and weights by content: a file may be moved, renamed or touched."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_core.errors import BadSample, UserError
from vlm_core.io.manifest import sha256

if TYPE_CHECKING:
    from torch import nn

    from vlm_core.interfaces import Tokenizer
    from vlm_core.io.images import ImageSource

WHOLE_BYTES = 256 * 2**20
"""Up to so many bytes of images, or of a dataset's files, are read whole; of more, the sizes and a sample."""
WHOLE_FILES, SAMPLED = 20_000, 1000
_WEIGHT_FILES = {".json", ".safetensors", ".bin", ".pt", ".pth", ".model", ".txt", ".py"}


def of(*facts: Any) -> str:
    """A digest of plain data."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def evenly_spaced(count: int, limit: int | None) -> list[int]:
    """`limit` of the places 0 … count-1 at even distances, or all, as for None."""
    return (
        list(range(count)) if limit is None or count <= limit else [i * count // limit for i in range(limit)]
    )


def of_image(source: ImageSource) -> str:
    """Of an image file's bytes, or of the reason why it can't be read."""
    from vlm_core.io.images import image_bytes

    try:
        return hashlib.sha256(image_bytes(source)).hexdigest()
    except BadSample as error:
        return error.reason


def of_images(images: Sequence[ImageSource]) -> str:
    """Of the contents of images in their order, whatever they are called.

    More than `WHOLE_BYTES` in files, or `WHOLE_FILES` images, are known by the size of each and the contents of
    `SAMPLED` at even distances.
    """
    different = list(dict.fromkeys(images))
    sizes = [_size(image) for image in different]
    whole = sum(sizes) <= WHOLE_BYTES and len(different) <= WHOLE_FILES
    places = evenly_spaced(len(different), len(different) if whole else SAMPLED)
    with ThreadPoolExecutor(8) as pool:
        contents = dict(zip(places, pool.map(of_image, (different[i] for i in places)), strict=True))
    facts = {image: [sizes[i], contents.get(i)] for i, image in enumerate(different)}
    return of([facts[image] for image in images])


def _size(image: ImageSource) -> int:
    if not isinstance(image, str | Path):
        return 0
    try:
        return os.stat(image).st_size
    except (OSError, ValueError):
        return -1


def of_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """Of rows with the contents of their images."""
    read = list(rows)
    images = [image for row in read for image in row["image"]]
    return of([{**row, "image": len(row["image"])} for row in read], of_images(images))


def of_files(path: Path) -> str:
    """Of a file, or of a folder's weights, configs and vocabularies; raises `UserError` if it can't be read."""
    try:
        if not path.is_dir():
            return sha256(path)
        files = sorted(p for p in path.iterdir() if p.is_file() and p.suffix in _WEIGHT_FILES)
        return of([[file.name, sha256(file)] for file in files])
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from None


def of_weights(module: nn.Module) -> str:
    """Of a module's parameters and persistent buffers."""
    import torch

    def one(item: tuple[str, torch.Tensor]) -> list[Any]:
        tensor = item[1].detach().cpu().contiguous()
        data = tensor.reshape(-1).view(torch.uint8).numpy()
        return [item[0], str(tensor.dtype), list(tensor.shape), hashlib.sha256(data.data).hexdigest()]

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return of(list(pool.map(one, sorted(module.state_dict().items()))))


def version_changes(old: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """A line about packages that are no longer of the version that something began with, if there are any."""
    other = [f"{name} {old[name]} → {now[name]}" for name in old if name in now and old[name] != now[name]]
    return f"packages have changed since this run began: {', '.join(other)}" if other else None


def of_tokenizer(tokenizer: Tokenizer) -> str:
    """Of the files that a tokenizer saves."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        return of([[p.name, sha256(p)] for p in sorted(Path(folder).rglob("*")) if p.is_file()])
