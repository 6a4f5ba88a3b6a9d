"""Some rows of a dataset, without copying them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vlm_core.errors import BadSample
from vlm_core.io import digests
from vlm_core.rows import Blocks, Row, Rows, digest_of, known_faults


class Subset(Rows):
    """The rows of `rows` for which the boolean array `selected` is true, in order."""

    def __init__(self, rows: Sequence[Row], selected: np.ndarray) -> None:
        self.rows, self.selected = rows, selected
        self.indices = np.flatnonzero(selected)

    def __len__(self) -> int:
        return len(self.indices)

    def row(self, index: int) -> Row:
        return self.rows[int(self.indices[index])]

    def faults(self) -> Mapping[int, BadSample]:
        faults = known_faults(self.rows)
        bad = sorted(row for row in faults if self.selected[row])
        return {int(np.searchsorted(self.indices, row)): faults[row] for row in bad}

    def missing(self) -> list[str]:
        """Those of all rows, if a bad row is selected: a split has all bad rows in one part."""
        return self.rows.missing() if isinstance(self.rows, Rows) and self.faults() else []

    def sizes(self) -> np.ndarray | None:
        sizes = self.rows.sizes() if isinstance(self.rows, Rows) else None
        return None if sizes is None else sizes[self.indices]

    def blocks(self) -> Blocks | None:
        """The blocks of all rows without the rows that are not selected, and without empty blocks."""
        blocks = self.rows.blocks() if isinstance(self.rows, Rows) else None
        if blocks is None:
            return None
        ends = np.cumsum(blocks.sizes)
        selected_before = np.concatenate([[0], np.cumsum(self.selected)])
        counts = selected_before[ends] - selected_before[ends - blocks.sizes]
        return Blocks(counts[counts > 0], blocks.window)

    def digest(self) -> str:
        return digests.of("subset", digest_of(self.rows), digests.of(self.indices.tolist()))
