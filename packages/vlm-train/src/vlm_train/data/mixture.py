"""The rows of a stage: its datasets as one sequence, and the order in which they are read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import accumulate

import numpy as np
import torch

from vlm_core.cli.progress import Progress
from vlm_core.errors import BadSample
from vlm_core.io.images import ImageSource, upright_size
from vlm_core.io.video.sources import VideoSource
from vlm_core.model import VLM
from vlm_core.plugins.config import DatasetConfig
from vlm_core.rows import Row, Rows, known_faults, text_length
from vlm_train.config.train import Stage
from vlm_train.data.order.shuffled_order import ShuffledOrder
from vlm_train.data.order.source_mixing import shares

CHARACTERS_PER_TOKEN = 4
"""An estimate, good enough for grouping by length."""


def joined(data: Sequence[DatasetConfig]) -> ConcatRows:
    """The rows of all datasets, one after the other."""
    return ConcatRows([source.rows() for source in data])


def sizes_of(rows: Sequence[Row]) -> np.ndarray:
    """(rows, 2): characters and images of each row. Rows without an index are read; bad rows count as empty."""
    if isinstance(rows, Rows) and (indexed := rows.sizes()) is not None:
        return indexed
    sizes = np.zeros((len(rows), 2), dtype=np.int64)
    for i in range(len(rows)):
        with suppress(BadSample):
            row = rows[i]
            sizes[i] = text_length(row), len(row["image"])
    return sizes


def image_positions(rows: Sequence[Row], model: VLM) -> int | np.ndarray:
    """The positions of the images and videos of each row (rows,), or of each image if all have equally many.

    If the spec has views, of images or of videos, the headers of all are read; what can't be read counts as a usual
    image. Otherwise no row is read, and a video counts as an image.
    """
    counts = model.view_counts
    if counts is None and not model.samples_videos:
        return model.image_tokens_by_default
    usual = model.image_tokens_by_default if counts is None else counts.usual.positions

    @cache
    def of_image(source: ImageSource) -> int:
        with suppress(BadSample):
            if isinstance(source, VideoSource):
                return model.video_processor.layout(source).positions
            if counts is not None:
                return model.image_processor.image_tokens(upright_size(source, whole=False))
        return usual

    positions = np.zeros(len(rows), dtype=np.int64)
    with Progress("sizes of images", len(rows), unit="rows") as progress:
        for index in range(len(rows)):
            with suppress(BadSample):
                positions[index] = sum(map(of_image, rows[index]["image"]))
            progress.advance(1)
    return positions


def order_of(
    stage: Stage, rows: ConcatRows, seed: int, image_tokens: Callable[[], int | np.ndarray]
) -> ShuffledOrder:
    """The order in which a stage reads its rows; `image_tokens`, which grouping needs, is as `image_positions`."""
    sizes = [len(part) for part in rows.parts]
    per_epoch = stage.samples_per_epoch or (
        shares(stage.mix_weights, len(rows)) if stage.mix_weights else None
    )
    blocks = [part.blocks() if isinstance(part, Rows) else None for part in rows.parts]
    if not stage.group_by_length:
        return ShuffledOrder(seed, sizes, per_epoch, blocks=blocks)
    characters, images = torch.from_numpy(sizes_of(rows).astype(np.int64)).unbind(1)
    counts = image_tokens()
    tokens = images * counts if isinstance(counts, int) else torch.from_numpy(counts)
    lengths = characters // CHARACTERS_PER_TOKEN + tokens
    kinds = (images > 0).long()
    return ShuffledOrder(
        seed, sizes, per_epoch, lengths=lengths, kinds=kinds, batch_size=stage.batch_size, blocks=blocks
    )


class ConcatRows(Rows):
    """Concatenated sequences of rows, without copying them."""

    def __init__(self, parts: Sequence[Sequence[Row]]) -> None:
        self.parts = parts
        self.starts = [0, *accumulate(len(part) for part in parts)]

    def __len__(self) -> int:
        return self.starts[-1]

    def row(self, index: int) -> Row:
        part = bisect_right(self.starts, index) - 1
        return self.parts[part][index - self.starts[part]]

    def sizes(self) -> np.ndarray:
        return np.concatenate([sizes_of(part) for part in self.parts])

    def faults(self) -> Mapping[int, BadSample]:
        return {
            start + row: error
            for start, part in zip(self.starts, self.parts, strict=False)
            for row, error in known_faults(part).items()
        }

    def missing(self) -> list[str]:
        return [line for part in self.parts if isinstance(part, Rows) for line in part.missing()]
