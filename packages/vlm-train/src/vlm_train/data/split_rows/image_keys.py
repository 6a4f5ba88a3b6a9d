"""Keys of rows for a split: rows with a common key must be in the same part."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from unicodedata import normalize

from vlm_core.errors import BadSample
from vlm_core.io.files import read_samples
from vlm_core.io.video.sources import ImageSource, StoredImage, file_of, image_bytes
from vlm_core.placeholders import IMAGE_PLACEHOLDER
from vlm_core.rows import Row

Keys = list[str]
SAMPLES, SAMPLE_BYTES = 3, 4096
_ROWS_AT_ONCE = 4096


def row_keys(rows: Sequence[Row]) -> list[Keys | None]:
    """Keys of each row: one per image or, without images, one of its first question; None for a bad row."""
    known: dict[ImageSource, str | None] = {}
    keys: list[Keys | None] = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        batch = [readable_row(rows, i) for i in range(start, min(start + _ROWS_AT_ONCE, len(rows)))]
        images = list({image for row in batch if row for image in row["image"]} - known.keys())
        with ThreadPoolExecutor(8) as pool:
            known.update(zip(images, pool.map(image_key, images), strict=True))
        keys += [None if row is None else _keys_of(row, [known[i] for i in row["image"]]) for row in batch]
    return keys


def readable_row(rows: Sequence[Row], index: int) -> Row | None:
    """Row `index`, or None for a bad one."""
    try:
        return rows[index]
    except BadSample:
        return None


def _keys_of(row: Row, images: Sequence[str | None]) -> Keys | None:
    if not images:
        question = row["conversations"][0]["value"].replace(IMAGE_PLACEHOLDER, "")
        text = normalize("NFC", " ".join(question.split()).casefold())
        return [hashlib.sha256(text.encode()).hexdigest()]
    keys = [key for key in images if key is not None]
    return keys if len(keys) == len(images) else None


def image_key(image: ImageSource) -> str | None:
    """Equal for image files of equal content, whatever their names; None if it can't be read.

    It covers a file's size and three samples: files that differ only elsewhere share a key, and thus a part.
    """
    image = file_of(image)
    try:
        if isinstance(image, StoredImage):
            data = image_bytes(image)
            last = max(0, len(data) - SAMPLE_BYTES)
            starts = [last * i // (SAMPLES - 1) for i in range(SAMPLES)]
            length, samples = len(data), [data[start : start + SAMPLE_BYTES] for start in starts]
        else:
            length, samples = read_samples(image, SAMPLES, SAMPLE_BYTES)
    except BadSample:
        return None
    return hashlib.sha256(b"".join((b"%d:" % length, *samples))).hexdigest()
