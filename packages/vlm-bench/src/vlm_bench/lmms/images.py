"""Images of a parquet file as lmms-eval's tasks expect them. This module needs lmms-eval."""

from __future__ import annotations

import re
from typing import Any

from datasets import Image  # pyright: ignore[reportMissingImports]  # lmms-eval brings it


def decode(dataset: Any) -> Any:
    """The `datasets.Dataset` with its columns `image` and `image_1`, … as images.

    Files that were not written by `datasets`, as MMStar's, hold them as encoded bytes.
    """
    for name, feature in dataset.features.items():
        if re.fullmatch(r"image(_\d+)?", name) and not isinstance(feature, Image):
            dataset = dataset.cast_column(name, Image())
    return dataset
