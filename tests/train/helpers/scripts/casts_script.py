"""One of two processes of a gloo group that train in bf16 with DDP, weights cast once a step and in each micro-batch.

Prints whether weights and outcomes are equal, the most casts of a weight in a step, and the weights' sum.
"""

import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode

from vlm_train.distributed.base import DDPStrategy
from vlm_train.engine.train_step import take_step


@dataclass
class Numbers:
    """Looks like a batch of one target; `x` is all that the loss needs."""

    x: torch.Tensor

    def to(self, device):
        return self


class Loss(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 8))

    def forward(self, batch):
        return self.layers(batch.x).float().square().sum()


class WeightCasts(TorchDispatchMode):
    """Counts casts of the second layer's weight to bf16."""

    def __init__(self, weight):
        super().__init__()
        self.weight, self.count = weight.data_ptr(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        cast = func is torch.ops.aten._to_copy.default and out.dtype == torch.bfloat16
        self.count += cast and args[0].data_ptr() == self.weight
        return out


def trained(accelerator, once):
    module = Loss()
    strategy = DDPStrategy(accelerator)
    if not once:
        strategy.weights_cast_once = nullcontext
    wrapped = strategy.wrap(module)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    outcomes, casts = [], 0
    for step in range(3):
        generator = torch.Generator().manual_seed(10 * step + accelerator.process_index)
        batches = [Numbers(torch.randn(4, 8, generator=generator)) for _ in range(3)]
        with WeightCasts(module.layers[2].weight) as seen:
            outcomes.append(take_step(strategy, wrapped, optimizer, batches, 1.0, 6))
        casts = max(casts, seen.count)
    return outcomes, [p.detach().clone() for p in module.parameters()], casts


def main():
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    assert accelerator.num_processes == 2
    outcomes, weights, casts = trained(accelerator, once=False)
    own_outcomes, own_weights, own_casts = trained(accelerator, once=True)
    assert casts == 3
    equal = own_outcomes == outcomes and all(
        torch.equal(a, b) for a, b in zip(own_weights, weights, strict=True)
    )
    sys.stdout.write(f"equal {equal} casts {own_casts} {sum(p.sum().item() for p in weights)}\n")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    main()
