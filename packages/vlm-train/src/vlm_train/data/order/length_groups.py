"""Groups the rows of an epoch into batches of one kind and similar length, which pads less."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MAX_BATCHES = 64
"""Batches whose rows are sorted by length together: more would group better and shuffle less."""


class LengthGroups:
    """Regroups an epoch so that each batch of `batch_size` rows has one kind and similar lengths.

    `lengths` and `kinds` (any integer) have an entry per row of the datasets. `window_rows` is
    `MixedSources.window_rows`: where rows are read in blocks, only rows that close together are sorted together.
    """

    def __init__(
        self, lengths: Tensor, kinds: Tensor | None, batch_size: int, window_rows: float | None = None
    ) -> None:
        self.lengths, self.kinds = lengths, kinds
        self.batch_size, self.window_rows = batch_size, window_rows

    def regroup(self, rows: Tensor, number: int, generator: torch.Generator) -> Tensor:
        """The same rows of epoch `number` as batches of similar rows, in shuffled order of batches.

        An epoch may begin inside a batch. Its first rows, and its last, are rows that no full batch could take.
        """
        head = -number * len(rows) % self.batch_size
        batches, loose = self._batches(rows)
        while len(loose) < min(head, len(rows)):
            loose = torch.cat([loose, batches.pop()])
        middle = loose[head : head + (len(loose) - head) // self.batch_size * self.batch_size]
        batches += list(middle.split(self.batch_size)) if len(middle) else []
        shuffled = [batches[i] for i in self._batch_order(batches, generator)]
        return rows[torch.cat([loose[:head], *shuffled, loose[head + len(middle) :]])]

    def _batches(self, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """(full batches, rows left over), both as positions in `rows`."""
        kinds = torch.zeros_like(rows) if self.kinds is None else self.kinds[rows]
        batches, loose = [], [rows[:0]]
        for kind in kinds.unique().tolist():
            positions = (kinds == kind).nonzero().squeeze(1)
            sorted_rows = self._sorted_together(len(positions) / len(rows)) * self.batch_size
            for group in positions.split(sorted_rows):
                *full, last = group[self.lengths[rows[group]].argsort(stable=True)].split(self.batch_size)
                batches += full
                (batches if len(last) == self.batch_size else loose).append(last)
        return batches, torch.cat(loose)

    def _batch_order(self, batches: Sequence[Tensor], generator: torch.Generator) -> Tensor:
        """A random order of the batches; with blocks, each batch stays near the positions of its rows."""
        if self.window_rows is None:
            return torch.randperm(len(batches), generator=generator)
        noise = torch.rand(len(batches), generator=generator) * self._sorted_together(1) * self.batch_size / 2
        centers = torch.tensor([float(positions.float().mean()) for positions in batches])
        return (centers + noise).argsort(stable=True)

    def _sorted_together(self, share: float) -> int:
        """Batches that are sorted by length together, of a kind that makes up `share` of the rows."""
        if self.window_rows is None:
            return MAX_BATCHES
        return max(1, min(MAX_BATCHES, round(share * self.window_rows / self.batch_size)))
