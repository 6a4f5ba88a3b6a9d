"""Lengths of rows before they are tokenized: characters of text, and exact positions of images and videos."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from vlm_core.cli.progress import Progress
from vlm_core.errors import BadSample, UserError
from vlm_core.io.images import ImageSource, upright_size
from vlm_core.io.video.sources import VideoSource
from vlm_core.model import VLM
from vlm_core.rows import Row, Rows, row_sizes

log = logging.getLogger(__name__)


def sizes_of(rows: Sequence[Row]) -> np.ndarray:
    """(rows, 3): characters, images and videos, and videos alone of each row; bad rows count as empty.

    Rows without an index are read. Raises `UserError` for a dataset whose index has another shape.
    """
    if isinstance(rows, Rows) and (indexed := rows.sizes()) is not None:
        if indexed.shape != (len(rows), 3):
            raise UserError(
                f"{type(rows).__name__}.sizes() returned an array of shape {indexed.shape}; expected "
                f"{(len(rows), 3)}: characters, images and videos, videos alone"
            )
        return indexed
    sizes = np.zeros((len(rows), 3), dtype=np.int64)
    for i in range(len(rows)):
        with suppress(BadSample):
            sizes[i] = row_sizes(rows[i])
    return sizes


def image_positions(rows: Sequence[Row], model: VLM, sizes: np.ndarray) -> np.ndarray:
    """(rows,): the positions of the images and videos of each row, exact; `sizes` are as from `sizes_of`.

    The headers of videos are read and, if the model cuts images into tiles, those of images. An image that can't be
    read counts as a usual one, a video as none: their rows are bad rows.
    """
    frames, counts = video_frames(rows, model, sizes), model.view_counts
    tokens, images = model.image_tokens_by_default, sizes[:, 1] - sizes[:, 2]
    if counts is None:
        return (images + frames) * tokens

    def of_image(source: ImageSource) -> int:
        return model.image_processor.image_tokens(upright_size(source, whole=False))

    read = _SourceCounts(of_image, counts.usual.positions)
    return frames * tokens + read.of_rows(rows, images, "images", lambda x: not isinstance(x, VideoSource))


def video_frames(rows: Sequence[Row], model: VLM, sizes: np.ndarray) -> np.ndarray:
    """(rows,): the frames that are sampled of each row's videos, from their headers; none of a video without one."""

    def of_video(source: ImageSource) -> int:
        assert isinstance(source, VideoSource)
        return model.video_processor.layout(source).views

    return _SourceCounts(of_video, 0).of_rows(
        rows, sizes[:, 2], "videos", lambda source: isinstance(source, VideoSource)
    )


class _SourceCounts:
    """A count of each image or video, computed once; `unreadable` for those whose header can't be read."""

    def __init__(self, count: Callable[[ImageSource], int], unreadable: int) -> None:
        self._count, self._unreadable = count, unreadable
        self._known: dict[ImageSource, int] = {}
        self._bad = 0

    def of_rows(
        self, rows: Sequence[Row], media: np.ndarray, name: str, wanted: Callable[[ImageSource], bool]
    ) -> np.ndarray:
        """(rows,): the sum over the `wanted` sources of each row; rows that have none of these `media` are not read."""
        sums, present = np.zeros(len(rows), dtype=np.int64), np.flatnonzero(media)
        if not len(present):
            return sums
        with Progress(f"sizes of {name}", len(present), unit="rows") as progress:
            for index in present:
                with suppress(BadSample):
                    sums[index] = sum(map(self._of, filter(wanted, rows[int(index)]["image"])))
                progress.advance(1)
        if self._bad:
            text = "sizes of %s: the headers of %d of %d can't be read; their rows will be bad rows"
            log.warning(text, name, self._bad, len(self._known))
        return sums

    def _of(self, source: ImageSource) -> int:
        if source not in self._known:
            try:
                self._known[source] = self._count(source)
            except BadSample:
                self._known[source], self._bad = self._unreadable, self._bad + 1
        return self._known[source]
