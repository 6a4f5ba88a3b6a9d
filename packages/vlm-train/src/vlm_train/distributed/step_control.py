"""What the processes tell each other before a step, in one collective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from accelerate import Accelerator

from vlm_core.text.batch import Batch
from vlm_train.loss import target_count


class StepControl(NamedTuple):
    """Sums over all processes: target tokens, dropped samples, and processes that got a signal to stop."""

    targets: int
    dropped: int = 0
    stops: int = 0


def exchange(
    accelerator: Accelerator, batches: Sequence[Batch], dropped: int = 0, stop: bool = False
) -> StepControl:
    """The sums of what every process gives for this step; all must call it, and all get the same."""
    mine = StepControl(sum(target_count(batch) for batch in batches), dropped, int(stop))
    if accelerator.num_processes == 1:
        return mine
    sums = accelerator.reduce(torch.tensor(mine, device=accelerator.device), "sum")
    return StepControl(*sums.tolist())  # pyright: ignore[reportAttributeAccessIssue]
