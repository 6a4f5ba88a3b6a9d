"""One optimizer step: exact over micro-batches and processes, and without effect if a number is not finite."""

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
from vlm_train.engine.step_graphs.micro_batch_graphs import MicroBatchGraphs


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
        """Whether loss and gradient were finite on every process."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


def take_step(
    strategy: DDPStrategy,
    loss_module: nn.Module,
    optimizer: Any,
    batches: Sequence[Batch],
    clip: float,
    targets: int,
    graphs: MicroBatchGraphs | None = None,
) -> Outcome:
    """Backward through every micro-batch, clip, and step, if loss and gradient are finite on every process.

    `targets` is their number in the batches of all processes (`step_control.exchange`). `graphs`: those of the stage,
    if its micro-batches may be CUDA graphs. A step without any target
    changes nothing; its loss is 0.
    """
    if targets == 0:
        return Outcome(0.0, 0.0, 0, changed=False)
    accelerator = strategy.accelerator
    device = accelerator.device
    statistics = NormStatistics(loss_module)
    batches = [batch.to(device) for batch in batches]
    if graphs is not None and graphs.takes(batches):
        summed = graphs.backward(batches, targets)
    else:
        summed = _backward(strategy, loss_module, batches, targets)
    norm = strategy.clip(optimizer, clip).to(device)
    loss, norm = _exchange(strategy, summed, norm)
    outcome = Outcome(loss / targets, norm, targets, changed=math.isfinite(loss) and math.isfinite(norm))
    if outcome.changed:
        optimizer.step()
        statistics.average(accelerator.num_processes)
    else:
        statistics.put_back()
    optimizer.zero_grad(set_to_none=True)
    return outcome


def _exchange(strategy: DDPStrategy, summed: Tensor, norm: Tensor) -> tuple[float, float]:
    """The loss summed over all processes, and the gradient norm, NaN if it is not finite on one of them.

    Each process checks its own norm: one's gradient may be bad before all have it. The only time in a step that the
    host waits for the device.
    """
    bad = torch.isfinite(norm).logical_not().to(summed.dtype)
    sums = strategy.accelerator.reduce(torch.stack([summed, bad]), "sum")
    numbers = torch.cat([sums, norm.detach().to(summed.dtype).reshape(1)])  # pyright: ignore[reportArgumentType, reportCallIssue]
    loss, bad_processes, own_norm = numbers.tolist()
    return loss, math.nan if bad_processes and math.isfinite(own_norm) else own_norm


def _backward(
    strategy: DDPStrategy, loss_module: nn.Module, batches: Sequence[Batch], targets: int
) -> Tensor:
    """Add the gradients of all micro-batches; -> this process's summed loss."""
    accelerator = strategy.accelerator
    total = torch.zeros((), device=accelerator.device)
    # one micro-batch gains nothing: its casts are dropped as its backward pass goes
    with strategy.weights_cast_once() if len(batches) > 1 else nullcontext():
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            with nullcontext() if last else strategy.no_sync(loss_module):
                summed = strategy.loss(loss_module, batch)
                if summed.requires_grad:
                    # processes are averaged afterwards, so each scales its share by their number
                    strategy.backward(loss_module, summed * accelerator.num_processes / targets)
            total += summed.detach()
    return total
