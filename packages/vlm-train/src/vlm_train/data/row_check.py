"""Reads rows ahead of training and collects those that can't be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch.utils.data import DataLoader

from vlm_core.cli.progress import Progress
from vlm_core.rows import Row
from vlm_train.data import data_workers
from vlm_train.data.dataset import DroppedSample, Examples

T = TypeVar("T")


@dataclass
class RowCheck(Generic[T]):
    """What was read of `rows` rows: a value for each usable row, and the rows that can't be used."""

    name: str
    rows: int
    usable: list[T] = field(default_factory=list)
    dropped: list[DroppedSample] = field(default_factory=list)

    def read(
        self, rows: Sequence[Row], read: Callable[[Row], T], indices: Sequence[int], num_workers: int
    ) -> None:
        """Call `read` on the rows `indices` of `rows`, in `num_workers` processes, and show the progress."""
        loader = DataLoader(
            Examples(rows, read),
            batch_size=16,
            sampler=indices,
            num_workers=num_workers,
            collate_fn=list,
            worker_init_fn=data_workers.start_worker,
        )
        with Progress(self.name, len(indices), unit="rows") as progress:
            for items in data_workers.read(loader):
                self.dropped += [item for item in items if isinstance(item, DroppedSample)]
                self.usable += [item for item in items if not isinstance(item, DroppedSample)]
                progress.advance(len(items))

    @property
    def reasons(self) -> Counter[str]:
        return Counter(item.reason for item in self.dropped)

    def summary(self) -> tuple[str, str]:
        """(how many rows were read and can be used, how many can't and why) as two lines."""
        checked = len(self.usable) + len(self.dropped)
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common())
        return (
            f"{self.name}: {checked} of {self.rows} rows checked, {len(self.usable)} usable",
            f"dropped: {reasons or 'none'}",
        )

    def fault_lines(self, limit: int, more: str) -> list[str]:
        """The first `limit` faults; `more` says where the others are."""
        lines = [f"  {item.reason}: {item.message}" for item in self.dropped[:limit]]
        rest = len(self.dropped) - limit
        return [*lines, f"  and {rest} more; {more}"] if rest > 0 else lines
