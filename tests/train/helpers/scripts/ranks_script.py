"""One of two processes of a gloo group: only the second has a bad loss at step 1, a bad gradient at step 2.

Prints, a step, whether the weights are unchanged, and at the end their sum.
"""

import os
import sys
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from vlm_train.distributed.base import DDPStrategy
from vlm_train.distributed.step_control import exchange
from vlm_train.engine.train_step import take_step


@dataclass
class Numbers:
    """Looks like a batch of one target; `x` is all that the loss needs."""

    x: torch.Tensor

    @property
    def targets(self):
        return torch.tensor([1])

    def to(self, device):
        return self


class Bad(torch.autograd.Function):
    """The identity whose gradient is infinite."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, *grad_outputs):
        return grad_outputs[0] * float("inf")


class Loss(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 1)
        self.bad = ""

    def forward(self, batch):
        loss = self.layer(batch.x).square().sum()
        if self.bad == "gradient":
            return Bad.apply(loss)
        return loss * float("nan") if self.bad else loss


def copied(strategy, module):
    with strategy.unsharded(module):
        return [p.detach().clone() for p in module.parameters()]


def main():
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    module = Loss()
    strategy = DDPStrategy(accelerator)
    wrapped = strategy.wrap(module)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    for step, bad in enumerate(("", "loss", "gradient", "")):
        module.bad = bad if accelerator.process_index == 1 else ""
        before = copied(strategy, module)
        batches = [Numbers(torch.full((2, 3), 1.0 + i + accelerator.process_index)) for i in range(2)]
        outcome = take_step(
            strategy, wrapped, optimizer, batches, 1.0, exchange(accelerator, batches).targets
        )
        after = copied(strategy, module)
        same = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert same is not outcome.changed
        sys.stdout.write(f"{step} {outcome.finite} {same} {outcome.targets}\n")
    moments = [v.isfinite().all().item() for v in strategy.optimizer_shards(module, optimizer).values()]
    sys.stdout.write(f"{all(moments)} {sum(p.sum().item() for p in copied(strategy, module))}\n")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    main()
