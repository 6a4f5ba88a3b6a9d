"""Which rows make up which step: a pure function of seed, stage and step, so resuming needs no history."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed((seed << 20) + epoch)
    return torch.randperm(rows, generator=generator)


def row_at(position: int, rows: int, seed: int) -> int:
    """The row at a position of the endless stream: each epoch is a permutation of all rows."""
    epoch, offset = divmod(position, rows)
    return int(_order(seed, epoch, rows)[offset])


class StepSampler:
    """Yields the micro-batches of one process, from `first_step` on: lists of row indices.

    A step takes `batch_size` rows from the stream; process `rank` of `world` takes its equal, contiguous
    share in micro-batches of at most `micro` rows.
    """

    def __init__(
        self, rows: int, batch_size: int, steps: int, *, seed: int = 0, first_step: int = 0,
        rank: int = 0, world: int = 1, micro: int | None = None,
    ) -> None:  # fmt: skip
        self.rows, self.batch_size, self.steps, self.first_step = rows, batch_size, steps, first_step
        self.seed, self.rank, self.share = seed, rank, batch_size // world
        self.micro = min(micro or self.share, self.share)
        assert self.share * world == batch_size, "the batch must divide by the number of processes"

    @property
    def micro_batches(self) -> int:
        """Micro-batches a step."""
        return -(-self.share // self.micro)

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.micro_batches

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.steps):
            start = step * self.batch_size + self.rank * self.share
            positions = range(start, start + self.share)
            for i in range(0, self.share, self.micro):
                yield [row_at(p, self.rows, self.seed) for p in positions[i : i + self.micro]]
