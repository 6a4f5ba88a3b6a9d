"""Messages of a run: where it resumes, and the rows and steps that it left out."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

from accelerate import Accelerator
from torch import Tensor

from vlm_core.markup.printable import printable
from vlm_train.checkpoint.checkpoint import Position
from vlm_train.checkpoint.run_dir import DROPPED_SAMPLES, RunDir

log = logging.getLogger(__name__)


def log_on_main(accelerator: Accelerator, *lines: str) -> None:
    """Log each line at level INFO, on the main process alone; the command line shows them on stdout."""
    if accelerator.is_main_process:
        for line in lines:
            log.info("%s", printable(line))


class Group(Protocol):
    """A parameter group of the optimizer."""

    @property
    def label(self) -> str: ...
    @property
    def lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def decays(self) -> bool: ...
    @property
    def parameters(self) -> Mapping[str, Tensor]: ...


def parameter_groups(groups: Iterable[Group]) -> list[str]:
    """A table with a line for each group: label, tensors, parameters, learning rate, weight decay."""
    rows = [("trainable", "tensors", "parameters", "lr", "weight decay")]
    for g in groups:
        count = sum(math.prod(p.shape) for p in g.parameters.values())
        decay = f"{g.weight_decay:g}" if g.decays else "exempt"
        rows.append((g.label, str(len(g.parameters)), f"{count:,}", f"{g.lr:g}", decay))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = (
        [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    )
    return [" " + "  ".join(cells) for cells in aligned]


def resumed(position: Position, stage: str, world: int) -> list[str]:
    """Lines for a run that resumes `stage` from the checkpoint at `position`, on `world` processes."""
    lines = [f"resuming {stage} at step {position.step}"]
    if position.world != world:
        lines.append(
            f"the checkpoint was written by {position.world} processes, this run has {world}: the order of the rows is "
            "the same, sums may round differently"
        )
    return lines


def dropped_samples(folder: RunDir, position: Position) -> list[str]:
    """Lines for the rows and steps that the run left out, if there are any."""
    lines = []
    if counts := Counter(record["reason"] for record in folder.records(DROPPED_SAMPLES)):
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
        lines.append(f"left out: {reasons} rows; see {folder.path / DROPPED_SAMPLES}")
    if position.skipped:
        lines.append(f"{position.skipped} steps were skipped: their loss or gradient was not finite")
    return lines
