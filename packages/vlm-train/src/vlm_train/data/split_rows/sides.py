"""Assigns rows to the training or the held-out part of a split, by the content of their images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from vlm_core.errors import BadSample, UserError
from vlm_core.io import digests
from vlm_core.io.images import load_image
from vlm_core.rows import Row, digest_of
from vlm_train.data.index_cache import cached_index, load_table
from vlm_train.data.split_rows.groups import groups_of
from vlm_train.data.split_rows.image_keys import row_keys

VERSION = 2
MIN_CACHED_ROWS = 1000
"""Smaller datasets are split in each run."""
_FILE = "held_out.npy"


def held_out_rows(rows: Sequence[Row], share: float, seed: int, name: str) -> np.ndarray:
    """Whether each row is held out, a boolean array; about `share` of the groups of rows are.

    Rows with a common image are one group, and so are rows without images with equal first questions. A hash of a
    group's content and `seed` decides, so its part depends neither on the order of rows, nor on names, nor on other
    rows, with one exception: each part has at least one group. Rows that can't be used are never held out:
    `on_bad_sample` of the training decides about them. `name` is the dataset's in messages. Raises `UserError` if
    there are fewer than two groups.
    """
    split = partial(_split, rows, share, seed, name)
    if len(rows) < MIN_CACHED_ROWS:
        return split()
    key = digests.of("split", VERSION, digest_of(rows), share, seed)
    load = partial(_load, len(rows))
    return cached_index(key, VERSION, f"{name}, held-out rows", split, _write, load, [_FILE])


def _write(is_held_out: np.ndarray, folder: Path) -> None:
    np.save(folder / _FILE, is_held_out)


def _load(rows: int, folder: Path) -> np.ndarray:
    table = load_table(folder / _FILE, np.dtype(bool))
    if len(table) != rows:
        raise UserError(f"{folder}: not a split of these rows")
    return table


def _split(rows: Sequence[Row], share: float, seed: int, name: str) -> np.ndarray:
    groups = groups_of(row_keys(rows))
    ranks = {key: _rank(key, seed) for key in groups}
    held_out: list[str] = []
    for key in sorted(groups, key=lambda key: (ranks[key], key))[:-1]:  # the last one is always trained on
        if held_out and ranks[key] >= share:
            break
        if _can_be_decoded(rows, groups[key]):
            held_out.append(key)
    if not held_out:
        text = "the usable rows show fewer than two different images, so none can be held out"
        raise UserError(f"{name}: {text}")
    is_held_out = np.zeros(len(rows), dtype=bool)
    for key in held_out:
        is_held_out[groups[key]] = True
    return is_held_out


def _rank(key: str, seed: int) -> float:
    """A number in [0, 1), uniformly distributed over keys."""
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:8]) / 2**64


def _can_be_decoded(rows: Sequence[Row], indices: Sequence[int]) -> bool:
    """Whether all images of these rows can be used."""
    try:
        for image in {image for index in indices for image in rows[index]["image"]}:
            load_image(image)
    except BadSample:
        return False
    return True
