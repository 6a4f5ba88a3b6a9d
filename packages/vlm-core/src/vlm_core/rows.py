"""Dataset rows that are read on demand: each process holds an index, not a list of all rows."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from vlm_core.errors import BadSample
from vlm_core.io.video.sources import VideoSource

if TYPE_CHECKING:
    import numpy as np

Row = dict[str, Any]
ROW_KEYS = frozenset(("id", "image", "conversations", "category", "system"))
"""All keys that a row may have."""
log = logging.getLogger(__name__)


class Blocks(NamedTuple):
    """Consecutive rows that are cheap to read together: rows per block, and the number of blocks buffered at once."""

    sizes: np.ndarray
    window: int


class Rows(Sequence[Row]):
    """A sequence whose `rows[i]` reads row i, or raises `BadSample` if that row can't be used.

    It must be picklable: each worker process gets a copy.
    """

    @abstractmethod
    def row(self, index: int) -> Row:
        """Row `index`, from 0; raises `BadSample`."""

    def faults(self) -> Mapping[int, BadSample]:
        """Errors of bad rows by index, as far as they are known without reading every row."""
        return {}

    def missing(self) -> list[str]:
        """Lines about missing files, counted by folder, as far as they are known without reading every row."""
        return []

    def sizes(self) -> np.ndarray | None:
        """(rows, 3): characters of text, number of images and videos, number of videos alone; None if not indexed."""
        return None

    def blocks(self) -> Blocks | None:
        """The blocks within which training shuffles; None if random access is cheap."""
        return None

    def digest(self) -> str:
        """A digest of the rows' content including images, independent of file names; a resumed run compares it.

        By default it covers the number of rows and `digests.SAMPLED` evenly spaced rows.
        """
        from vlm_core.io import digests

        indices = digests.evenly_spaced(len(self), digests.SAMPLED)
        return digests.of(len(self), [_row_digest(self, index) for index in indices])

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self.row(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.row(index % len(self))


def _row_digest(rows: Rows, index: int) -> str:
    from vlm_core.io import digests

    try:
        return digests.of_rows([rows[index]])
    except BadSample as error:
        return error.reason


def digest_of(rows: Sequence[Row]) -> str:
    """`rows.digest()` of `Rows`; for a plain list, a digest of all rows."""
    from vlm_core.io import digests

    return rows.digest() if isinstance(rows, Rows) else digests.of_rows(rows)


def text_length(row: Row) -> int:
    """Number of characters in a row's turns and system prompt."""
    return sum(len(turn["value"]) for turn in row["conversations"]) + len(row.get("system") or "")


def row_sizes(row: Row) -> tuple[int, int, int]:
    """A row of `Rows.sizes`: characters of text, number of images and videos, number of videos alone."""
    videos = sum(isinstance(source, VideoSource) for source in row["image"])
    return text_length(row), len(row["image"]), videos


def known_faults(rows: Sequence[Row]) -> Mapping[int, BadSample]:
    """`rows.faults()` of `Rows`; empty for a plain list, whose errors were raised when it was made."""
    return rows.faults() if isinstance(rows, Rows) else {}


def readable(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows that can be read, in order; log the number of others as a warning."""
    bad = 0
    for i in range(len(rows)):
        try:
            yield rows[i]
        except BadSample:
            bad += 1
    if bad:
        log.warning("%d of %d rows cannot be read and are skipped", bad, len(rows))
