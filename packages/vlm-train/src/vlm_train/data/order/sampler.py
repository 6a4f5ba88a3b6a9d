"""The rows of each step: a pure function of seed, stage and step, so that resuming needs no history."""

from __future__ import annotations

from collections.abc import Iterator

from vlm_train.data.order.shuffled_order import ShuffledOrder


def row_at(position: int, rows: int, seed: int) -> int:
    """The row at a position of the endless stream: each epoch is a permutation of all rows."""
    return ShuffledOrder(seed, [rows]).row_at(position)


class StepSampler:
    """Yields the micro-batches of one process, from `first_step` on: lists of row indices.

    A step takes `batch_size` rows from `order` (default: all rows once per epoch). Process `rank` of `world` takes an
    equal, contiguous share of them in micro-batches of at most `micro` rows. Where `order.reads_blocks`, the rows of
    a step are sorted before they are shared out, so that each process reads few blocks.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        steps: int,
        *,
        seed: int = 0,
        first_step: int = 0,
        rank: int = 0,
        world: int = 1,
        micro: int | None = None,
        order: ShuffledOrder | None = None,
    ) -> None:
        self.batch_size, self.steps, self.first_step = batch_size, steps, first_step
        self.order, self.rank, self.share = order or ShuffledOrder(seed, [rows]), rank, batch_size // world
        self.micro = min(micro or self.share, self.share)
        assert self.share * world == batch_size, "batch_size must be divisible by the number of processes"

    @property
    def micro_batches(self) -> int:
        """Micro-batches per step."""
        return -(-self.share // self.micro)

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.micro_batches

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.steps):
            rows = self._share_of(step)
            for i in range(0, self.share, self.micro):
                yield rows[i : i + self.micro]

    def _share_of(self, step: int) -> list[int]:
        """The rows of this process in one step."""
        start, offset = step * self.batch_size, self.rank * self.share
        if not self.order.reads_blocks:
            first = start + offset
            return [self.order.row_at(p) for p in range(first, first + self.share)]
        rows = sorted(self.order.row_at(p) for p in range(start, start + self.batch_size))
        return rows[offset : offset + self.share]
