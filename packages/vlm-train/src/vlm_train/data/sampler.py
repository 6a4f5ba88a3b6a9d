"""Which rows make up which step: a pure function of seed, stage and step, so resuming needs no history."""

from __future__ import annotations

from collections.abc import Iterator

from vlm_train.data.shuffle import ShuffledOrder


def row_at(position: int, rows: int, seed: int) -> int:
    """The row at a position of the endless stream: each epoch is a permutation of all rows."""
    return ShuffledOrder(seed, [rows]).row_at(position)


class StepSampler:
    """Yields the micro-batches of one process, from `first_step` on: lists of row indices.

    A step takes `batch_size` rows from the stream; process `rank` of `world` takes its equal, contiguous
    share in micro-batches of at most `micro` rows. The stream is `order`, by default all rows once an epoch. Where
    it says that neighbouring rows are cheap to read together, each process gets rows of the step that are.
    """

    def __init__(
        self, rows: int, batch_size: int, steps: int, *, seed: int = 0, first_step: int = 0,
        rank: int = 0, world: int = 1, micro: int | None = None, order: ShuffledOrder | None = None,
    ) -> None:  # fmt: skip
        self.batch_size, self.steps, self.first_step = batch_size, steps, first_step
        self.order, self.rank, self.share = order or ShuffledOrder(seed, [rows]), rank, batch_size // world
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
            rows = self._share_of(step)
            for i in range(0, self.share, self.micro):
                yield rows[i : i + self.micro]

    def _share_of(self, step: int) -> list[int]:
        start, own = step * self.batch_size, self.rank * self.share
        if not self.order.neighbours:
            return [self.order.row_at(p) for p in range(start + own, start + own + self.share)]
        rows = sorted(self.order.row_at(p) for p in range(start, start + self.batch_size))
        return rows[own : own + self.share]
