"""Digests of files, data and weights by content, independent of file names and times."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_core.errors import BadSample, UserError
from vlm_core.io.manifest import sha256

if TYPE_CHECKING:
    import torch
    from torch import nn

    from vlm_core.interfaces import Tokenizer
    from vlm_core.io.video.sources import ImageSource

WHOLE_BYTES = 256 * 2**20
"""Limit up to which images or a dataset's files are hashed completely; above it, sizes and a sample of contents are."""
WHOLE_FILES, SAMPLED = 20_000, 1000
_WEIGHT_FILES = {".json", ".safetensors", ".bin", ".pt", ".pth", ".model", ".txt", ".py"}


def of(*facts: Any) -> str:
    """sha256 of plain data."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def evenly_spaced(count: int, limit: int | None) -> list[int]:
    """`limit` evenly spaced indices of 0 … count-1; all for None."""
    return (
        list(range(count)) if limit is None or count <= limit else [i * count // limit for i in range(limit)]
    )


def of_image(source: ImageSource) -> str:
    """sha256 of an image file's bytes, and of a video's sampling; the `BadSample` reason if it can't be read."""
    from vlm_core.io.video.sources import VideoSource, file_digest, image_bytes

    try:
        if isinstance(source, VideoSource):
            return of(file_digest(source.file), str(source.sampling))
        return hashlib.sha256(image_bytes(source)).hexdigest()
    except BadSample as error:
        return error.reason


def of_images(images: Sequence[ImageSource]) -> str:
    """Digest of the contents of images in order, independent of their names.

    Of more than `WHOLE_BYTES` in files, or `WHOLE_FILES` images, it covers all sizes and the contents of `SAMPLED`
    evenly spaced images.
    """
    distinct = list(dict.fromkeys(images))
    sizes = [_size(image) for image in distinct]
    complete = sum(sizes) <= WHOLE_BYTES and len(distinct) <= WHOLE_FILES
    indices = evenly_spaced(len(distinct), len(distinct) if complete else SAMPLED)
    with ThreadPoolExecutor(8) as pool:
        contents = dict(zip(indices, pool.map(of_image, (distinct[i] for i in indices)), strict=True))
    facts = {image: [sizes[i], contents.get(i)] for i, image in enumerate(distinct)}
    return of([facts[image] for image in images])


def _size(image: ImageSource) -> int:
    from vlm_core.io.video.sources import file_of

    file = file_of(image)
    if not isinstance(file, str | Path):
        return 0
    try:
        return os.stat(file).st_size
    except (OSError, ValueError):
        return -1


def of_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """Digest of rows and the contents of their images."""
    read = list(rows)
    images = [image for row in read for image in row["image"]]
    return of([{**row, "image": len(row["image"])} for row in read], of_images(images))


def of_files(path: Path) -> str:
    """Digest of a file, or of a folder's weights, configs and vocabularies; `UserError` if it can't be read."""
    try:
        if not path.is_dir():
            return sha256(path)
        files = sorted(p for p in path.iterdir() if p.is_file() and p.suffix in _WEIGHT_FILES)
        return of([[file.name, sha256(file)] for file in files])
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from None


def of_weights(module: nn.Module) -> str:
    """Digest of a module's parameters and persistent buffers."""
    import torch

    def one(item: tuple[str, torch.Tensor]) -> list[Any]:
        tensor = item[1].detach().cpu().contiguous()
        data = tensor.reshape(-1).view(torch.uint8).numpy()
        return [item[0], str(tensor.dtype), list(tensor.shape), hashlib.sha256(data.data).hexdigest()]

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return of(list(pool.map(one, sorted(module.state_dict().items()))))


def version_changes(old: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """A message about packages whose version has changed; None if there are none."""
    changes = [f"{name} {old[name]} → {now[name]}" for name in old if name in now and old[name] != now[name]]
    return f"packages have changed since this run began: {', '.join(changes)}" if changes else None


def of_tokenizer(tokenizer: Tokenizer) -> str:
    """Digest of the files that a tokenizer saves."""
    return of_saved(tokenizer.save)


def of_saved(save: Callable[[Path], None]) -> str:
    """Digest of the names and contents of the files that `save(folder)` writes."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        save(Path(folder))
        return of([[p.name, sha256(p)] for p in sorted(Path(folder).rglob("*")) if p.is_file()])


def of_tensor(tensor: torch.Tensor) -> str:
    """sha256 of a tensor's dtype, shape and content."""
    import torch

    facts = f"{tensor.dtype} {list(tensor.shape)} ".encode()
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(facts + content.tobytes()).hexdigest()
