"""One optimizer step: exact over micro-batches and processes, and nothing at all if a number is not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vlm_core.text.batch import Batch
from vlm_train.distributed.base import DDPStrategy
from vlm_train.engine.norm_statistics import NormStatistics
from vlm_train.loss import target_count


@dataclass(frozen=True)
class Outcome:
    """Mean loss over all targets of the global batch, gradient norm before clipping, number of targets.

    The same on every process. `changed` is False if the weights are as they were before.
    """

    loss: float
    norm: float
    targets: int
    changed: bool

    @property
    def finite(self) -> bool:
        """Whether loss and gradient were numbers on every process."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


def take_step(
    strategy: DDPStrategy, loss_module: nn.Module, optimizer: Any, batches: Sequence[Batch], clip: float
) -> Outcome:
    """Backward through every micro-batch, clip, and step, if loss and gradient are finite on every process.

    A batch without any target changes nothing and counts as loss 0 over 0 targets.
    """
    accelerator = strategy.accelerator
    device = accelerator.device
    count = torch.tensor(sum(target_count(b) for b in batches), device=device)
    targets = int(accelerator.reduce(count, "sum"))  # pyright: ignore[reportArgumentType]
    if targets == 0:
        return Outcome(0.0, 0.0, 0, changed=False)
    statistics = NormStatistics(loss_module)
    summed = _backward(strategy, loss_module, [b.to(device) for b in batches], targets)
    norm = strategy.clip(optimizer, clip).to(device)
    # a norm is checked where it was computed: one process's gradient may be bad before all have it
    both = torch.stack([summed, torch.isfinite(norm).logical_not().to(summed.dtype)])
    total, bad = accelerator.reduce(both, "sum").tolist()  # pyright: ignore[reportAttributeAccessIssue]
    outcome = Outcome(total / targets, math.nan if bad and norm.isfinite() else float(norm), targets, True)
    if outcome.finite:
        optimizer.step()
        statistics.average(accelerator.num_processes)
    else:
        statistics.put_back()
    optimizer.zero_grad(set_to_none=True)
    return outcome if outcome.finite else Outcome(outcome.loss, outcome.norm, targets, changed=False)


def _backward(
    strategy: DDPStrategy, loss_module: nn.Module, batches: Sequence[Batch], targets: int
) -> Tensor:
    """Add the gradients of all micro-batches; -> this process's summed loss."""
    accelerator = strategy.accelerator
    total = torch.zeros((), device=accelerator.device)
    for i, batch in enumerate(batches):
        last = i == len(batches) - 1
        with nullcontext() if last else strategy.no_sync(loss_module):
            summed = strategy.loss(loss_module, batch)
            if summed.requires_grad:
                # processes are averaged afterwards, so each scales its share by their number
                strategy.backward(loss_module, summed * accelerator.num_processes / targets)
        total += summed.detach()
    return total
