"""Rows read on demand, so that a large dataset costs an index and not a list in every process."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from vlm_core.errors import BadSample

if TYPE_CHECKING:
    import numpy as np

Row = dict[str, Any]
ROW_KEYS = frozenset(("id", "image", "conversations", "category", "system"))
"""All keys that a row may have."""
log = logging.getLogger(__name__)


class Blocks(NamedTuple):
    """Neighbouring rows that are cheap to read together: how many rows each block has, and blocks at hand at once."""

    sizes: np.ndarray
    window: int


class Rows(Sequence[Row]):
    """A sequence whose `rows[i]` reads row i and raises `BadSample` if that row can't be used.

    It must survive pickling: worker processes get a copy.
    """

    @abstractmethod
    def row(self, index: int) -> Row:
        """Row `index`, from 0; raises `BadSample`."""

    def faults(self) -> Mapping[int, BadSample]:
        """Rows known to be bad without reading all of them, each with what is wrong."""
        return {}

    def sizes(self) -> np.ndarray | None:
        """(rows, 2): characters of text and images of each row, for grouping; None if only reading tells."""
        return None

    def blocks(self) -> Blocks | None:
        """The blocks that training's order should keep to; None if any row is as cheap to read as the next."""
        return None

    def digest(self) -> str:
        """Of what the rows hold, images included, whatever files are called; a resumed run compares it.

        By default, of the number of rows and of `digests.SAMPLED` of them at even distances.
        """
        from vlm_core.io import digests

        places = digests.evenly_spaced(len(self), digests.SAMPLED)
        return digests.of(len(self), [_row_digest(self, place) for place in places])

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
    """`rows.digest()` of `Rows`, and one over all rows of a plain list."""
    from vlm_core.io import digests

    return rows.digest() if isinstance(rows, Rows) else digests.of_rows(rows)


def text_length(row: Row) -> int:
    """Characters of a row's text: what is said, and its system text."""
    return sum(len(turn["value"]) for turn in row["conversations"]) + len(row.get("system") or "")


def known_faults(rows: Sequence[Row]) -> Mapping[int, BadSample]:
    """`rows.faults()` of `Rows`; a plain list has raised what is wrong with it already."""
    return rows.faults() if isinstance(rows, Rows) else {}


def readable(rows: Sequence[Row]) -> Iterator[Row]:
    """Every row that can be read, in order; the number of others is logged as a warning."""
    bad = 0
    for i in range(len(rows)):
        try:
            yield rows[i]
        except BadSample:
            bad += 1
    if bad:
        log.warning("%d of %d rows cannot be read and are left out", bad, len(rows))
