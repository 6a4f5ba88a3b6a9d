"""Fashion-MNIST's four files: gzip-compressed IDX, as its authors publish them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from vlm_core.errors import UserError
from vlm_core.io.files import read_bytes

Split = Literal["train", "test"]
LABELS = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
"""Names of the labels 0 to 9."""
SIDE = 28
"""Side of an item's image, in pixels."""
_PREFIX = {"train": "train", "test": "t10k"}
_MAX_BYTES = 100_000_000
"""Largest size of an uncompressed file; the largest official one has 47 MB."""


def images_by_class(folder: Path, split: Split, classes: Iterable[str]) -> dict[str, np.ndarray]:
    """The images of a split's items of each class, uint8 (n, 28, 28): 0 is the background."""
    labels = _array(folder / f"{_PREFIX[split]}-labels-idx1-ubyte.gz", ())
    images = _array(folder / f"{_PREFIX[split]}-images-idx3-ubyte.gz", (SIDE, SIDE))
    if len(labels) != len(images):
        raise UserError(f"{folder}: the split {split} has {len(labels)} labels, but {len(images)} images")
    by_class = {name: images[labels == LABELS.index(name)] for name in classes}
    if empty := [name for name, items in by_class.items() if not len(items)]:
        raise UserError(f"{folder}: the split {split} has no item of class {empty[0]}")
    return by_class


@lru_cache(maxsize=4)
def _array(path: Path, item: tuple[int, ...]) -> np.ndarray:
    """The content of an IDX file of unsigned bytes, (n, *item)."""
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; install Debian's package dataset-fashion-mnist, or set `path` to a folder with "
            "Fashion-MNIST's four files"
        )
    content = _uncompressed(path)
    sizes = 4 * (2 + len(item))  # magic number, count, and the item's sides
    if len(content) < sizes or _header(content[:sizes]) != (0x801 + len(item), *item):
        raise UserError(f"{path}: not an IDX file of unsigned bytes with items of shape {item}")
    values = np.frombuffer(content, np.uint8, offset=sizes)
    count = int.from_bytes(content[4:8], "big")
    if len(values) != count * math.prod(item):
        raise UserError(f"{path}: has {len(values)} bytes after its header, which promises {count} items")
    return values.reshape(count, *item)


def _header(content: bytes) -> tuple[int, ...]:
    """The magic number and the item's sides."""
    magic, _, *item = (int.from_bytes(content[i : i + 4], "big") for i in range(0, len(content), 4))
    return magic, *item


def _uncompressed(path: Path) -> bytes:
    """The content of a gzip file, at most `_MAX_BYTES`."""
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = inflater.decompress(read_bytes(path), _MAX_BYTES)
    except zlib.error as error:
        raise UserError(f"{path}: not a gzip file: {error}") from None
    if not inflater.eof:
        raise UserError(f"{path}: is cut off, or larger than {_MAX_BYTES:,} bytes")
    return content
