"""Shuffles every dataset and mixes several into epochs; each epoch is a pure function of seed and number."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from vlm_core.rows import Blocks
from vlm_train.seeds import fold_in


def shares(weights: Sequence[float], total: int) -> list[int]:
    """`total` divided in proportion to `weights`, to whole numbers whose sum is exact (largest remainders)."""
    exact = [total * w / sum(weights) for w in weights]
    counts = [int(e) for e in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


class ShuffledSource:
    """One dataset as an endless stream of its rows: every pass over the dataset is a permutation of its own.

    With `blocks`, a pass shuffles the blocks, and the rows of every `blocks.window` consecutive blocks among each
    other, so that few blocks are in use at a time.
    """

    def __init__(self, seed: int, source: int, size: int, blocks: Blocks | None = None) -> None:
        self.seed, self.source, self.size, self.blocks = seed, source, size, blocks

    def rows(self, first: int, last: int) -> Tensor:
        """The rows at positions `first` … `last`-1 of the stream."""
        if first == last:
            return torch.empty(0).long()
        passes = range(first // self.size, -(-last // self.size))
        stream = torch.cat([self._permutation(number) for number in passes])
        return stream[first - passes.start * self.size :][: last - first]

    def _permutation(self, number: int) -> Tensor:
        """The order of rows in pass `number`."""
        generator = torch.Generator().manual_seed(fold_in(self.seed, self.source, number))
        if self.blocks is None:
            return torch.randperm(self.size, generator=generator)
        blocks = torch.arange(self.size).split(self.blocks.sizes.tolist())
        shuffled = [blocks[i] for i in torch.randperm(len(blocks), generator=generator)]
        window = self.blocks.window
        windows = [torch.cat(shuffled[i : i + window]) for i in range(0, len(shuffled), window)]
        return torch.cat([rows[torch.randperm(len(rows), generator=generator)] for rows in windows])


class MixedSources:
    """Epochs over several datasets whose rows are numbered consecutively.

    An epoch has `counts[i]` rows of dataset i (default: all `sizes[i]`). With other counts, an epoch continues in
    each dataset at the row where the previous epoch stopped, so that all its rows are used equally often.

    `blocks[i]` are the blocks of dataset i: rows that are cheap to read together. None means that it has none.
    """

    def __init__(
        self,
        seed: int,
        sizes: Sequence[int],
        counts: Sequence[int] | None = None,
        blocks: Sequence[Blocks | None] = (),
    ) -> None:
        self.sizes, self.counts, self.takes_all = list(sizes), list(counts or sizes), counts is None
        self.blocks = list(blocks) or [None] * len(self.sizes)
        self.has_blocks = any(block is not None for block in self.blocks)
        sources = zip(self.sizes, self.blocks, strict=True)
        self.sources = [ShuffledSource(seed, i, size, block) for i, (size, block) in enumerate(sources)]

    def __len__(self) -> int:
        """Rows per epoch."""
        return sum(self.counts)

    def epoch(self, number: int, generator: torch.Generator) -> Tensor:
        """The rows of epoch `number`, from 0; `generator` mixes the datasets."""
        order = torch.randperm(len(self), generator=generator)
        if self.has_blocks:
            return self._interleaved(number, order)
        return order if self.takes_all else self._rows(number)[order]

    def window_rows(self) -> float | None:
        """Positions of an epoch over which one window of blocks is spread, the fewest of all datasets; or None."""
        if not self.has_blocks:
            return None
        return min(
            block.window * size / len(block.sizes) * len(self) / max(1, count)
            for block, size, count in zip(self.blocks, self.sizes, self.counts, strict=True)
            if block is not None
        )

    def _rows(self, number: int) -> Tensor:
        """The rows that epoch `number` takes from each dataset, one dataset after the other."""
        starts = accumulate(self.sizes, initial=0)
        parts = zip(starts, self.sources, self.counts, strict=False)
        return torch.cat([start + s.rows(number * n, (number + 1) * n) for start, s, n in parts])

    def _interleaved(self, number: int, order: Tensor) -> Tensor:
        """The rows of an epoch with the datasets mixed by `order`; each dataset's rows keep the order of its stream."""
        source = torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts))[order]
        rows = torch.empty_like(order)
        rows[source.argsort(stable=True)] = self._rows(number)
        return rows
