"""Running statistics of trained norms, over the micro-batches and processes of one step.

An encoder's statistics are never trained, so these are a connector's or a language model's.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vlm_core.numerics import frozen_modules

_COUNT = "num_batches_tracked"


class NormStatistics:
    """The statistics that the forward passes of a step change, and copies of them from before the step."""

    def __init__(self, module: nn.Module) -> None:
        norms = [m for m in module.modules() if m.training and frozen_modules.running_statistics(m)]
        self._means = [
            tensor for norm in norms for tensor in frozen_modules.running_statistics(norm).values()
        ]
        self._counts = [count for norm in norms if (count := norm._buffers.get(_COUNT)) is not None]
        self._before = [tensor.clone() for tensor in self._all]

    @property
    def _all(self) -> list[Tensor]:
        return [*self._means, *self._counts]

    @torch.no_grad()
    def put_back(self) -> None:
        """Restore the statistics after a skipped step."""
        for tensor, before in zip(self._all, self._before, strict=True):
            tensor.copy_(before)

    @torch.no_grad()
    def average(self, processes: int) -> None:
        """Average the statistics over all processes, which saw different images: at most two collectives."""
        if processes == 1 or not self._means:
            return
        flat = torch.cat([(tensor / processes).flatten() for tensor in self._means])
        dist.all_reduce(flat)
        for tensor, mean in zip(self._means, flat.split([t.numel() for t in self._means]), strict=True):
            tensor.copy_(mean.view_as(tensor))
        if self._counts:
            counts = torch.stack(self._counts)
            dist.all_reduce(counts, dist.ReduceOp.MAX)
            for tensor, count in zip(self._counts, counts, strict=True):
                tensor.copy_(count)
