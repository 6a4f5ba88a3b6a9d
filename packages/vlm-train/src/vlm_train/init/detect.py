"""Detects the format of a data file or folder, and the folder of its images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from glob import has_magic
from itertools import islice
from pathlib import Path

from vlm_core.errors import BadSample, UserError
from vlm_core.io.files import open_regular
from vlm_core.io.image_folder import ImageFolder
from vlm_core.plugins.config import DatasetConfig
from vlm_train.data.llava import LlavaConfig
from vlm_train.data.parquet import ParquetConfig
from vlm_train.data.storage import is_remote
from vlm_train.data.webdataset import WebDatasetConfig

READABLE = "JSON or JSON lines (.json, .jsonl), parquet (.parquet), webdataset shards (.tar)"
ROW_EXAMPLE = '{"image": "a.jpg", "question": "What is this?", "answer": "a cat"}'
_TABLES = (".csv", ".tsv", ".xlsx", ".xls")
_IMAGES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_VIDEOS = (".avi", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
_TRIED, _FOLDERS = 20, 100
"""Images that are searched, and subfolders in which they are."""


def dataset_at(path: str, images: str | None) -> DatasetConfig:
    """The config of the dataset at `path`: a file, a folder, a pattern or a URL; `UserError` if there is none.

    `images` is the folder of images that rows name; None: it is searched for.
    """
    if images and not os.path.isdir(images):
        raise UserError(f"--images {images}: no such folder")
    if is_remote(path):
        return _of_type("parquet", path, images)
    if os.path.isdir(path):
        return _in_folder(path, images)
    if not os.path.lexists(path) and (has_magic(path) or "{" in path):
        return _of_type("webdataset" if path.endswith(".tar") else "parquet", path, images)
    return _of_type(_format_of(path), path, images)


def _of_type(kind: str, path: str, images: str | None) -> DatasetConfig:
    if kind == "llava":
        return LlavaConfig(path=path, images=images or _images_folder(path))
    if kind == "parquet":
        return ParquetConfig(path=path, images=images or "")
    if images:
        raise UserError("--images is for rows that name their images; webdataset shards hold them")
    return WebDatasetConfig(path=path)


def _format_of(path: str) -> str:
    """The type of dataset that a file is, by its content; raises `UserError` for another kind of file."""
    with open_regular(path) as file:
        head = file.read(512)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head[257:262] == b"ustar":
        return "webdataset"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{"):
        return "llava"
    if not head.strip():
        raise UserError(f"{path}: is empty")
    if head[:2] in (b"\x1f\x8b", b"PK") and not path.endswith(_TABLES):
        raise UserError(f"{path}: is compressed; unpack it. These formats are read: {READABLE}")
    if path.lower().endswith(_TABLES):
        text = f"a table must be converted to one JSON line for each row, such as {ROW_EXAMPLE}"
        raise UserError(f"{path}: {text}")
    raise UserError(f"{path}: unknown format; these are read: {READABLE}")


def _in_folder(folder: str, images: str | None) -> DatasetConfig:
    """The only dataset in a folder: one JSON file, or parquet files or shards at any depth."""
    names = sorted(os.listdir(folder))
    json_files = [name for name in names if name.endswith((".json", ".jsonl"))]
    found = [("llava", os.path.join(folder, name)) for name in json_files]
    suffixes = {Path(name).suffix for name in _names_below(folder)}
    found += [
        (kind, folder)
        for kind, suffix in (("parquet", ".parquet"), ("webdataset", ".tar"))
        if suffix in suffixes
    ]
    if len(found) == 1:
        kind, path = found[0]
        return _of_type(_format_of(path) if json_files else kind, path, images)
    if found:
        listed = ", ".join([*json_files[:10], *(f"{kind} files" for kind, _ in found[len(json_files) :])])
        raise UserError(f"{folder}: holds several data files ({listed}); name one of them")
    names = [name.lower() for name in _names_below(folder)]
    counts = {"images": _IMAGES, "videos": _VIDEOS}
    counted = [f"{n} {kind}" for kind, ends in counts.items() if (n := sum(x.endswith(ends) for x in names))]
    seen = f"{' and '.join(counted)}, but no questions or captions" if counted else "no data file"
    raise UserError(
        f"{folder}: holds {seen}. These formats are read: {READABLE}.",
        f"A row of JSON lines: {ROW_EXAMPLE}",
    )


def _names_below(folder: str) -> Iterator[str]:
    """Names of at most 100,000 files at any depth."""
    return islice((name for _, _, names in os.walk(folder) for name in names), 100_000)


def _images_folder(path: str) -> str:
    """The folder that holds the first images that a JSON file names: a subfolder of its own, or "" for its own."""
    from vlm_train.data.json_files.json_index import index_of

    parent = os.path.dirname(path)
    names = [name for _, name, _ in islice(index_of(Path(path)).image_names(), _TRIED)]
    subfolders = sorted(entry.name for entry in os.scandir(parent or ".") if entry.is_dir())
    paths = [os.path.join(parent or ".", name) for name in islice(subfolders, _FOLDERS)]
    for folder in (parent or ".", *paths):
        if any(_has(folder, name) for name in names):
            return "" if folder == (parent or ".") else folder
    return ""


def _has(folder: str, name: object) -> bool:
    try:
        ImageFolder(folder).locate(name, "")
    except BadSample:
        return False
    return True
