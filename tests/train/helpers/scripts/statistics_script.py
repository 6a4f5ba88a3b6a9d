"""One of two processes, the second of which has no image in step 2: statistics and what is refused, by strategy.

Prints as JSON, a strategy: batches that a norm has counted and its mean after each step, and what `compare` says of
statistics that have come apart.
"""

import json
import os
import sys

import torch
from accelerate import Accelerator
from torch import nn

from vlm_core.errors import UserError
from vlm_core.interfaces import Connector, Encoder, LanguageModel
from vlm_core.model import VLM
from vlm_core.text.batch import Batch
from vlm_train.distributed.base import DDPStrategy
from vlm_train.distributed.fsdp2 import FSDP2Strategy
from vlm_train.distributed.step_control import exchange
from vlm_train.engine.train_step import take_step
from vlm_train.loss import SummedLoss


class Patches(Encoder):
    dim, image_size = 3, (2, 2)

    def transform(self, image):
        raise NotImplementedError

    def grid(self, height, width):
        return height, width

    def forward(self, pixel_values):
        return pixel_values.permute(0, 2, 3, 1)


class Norm(Connector):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4)

    def num_tokens(self, h, w):
        return h * w

    def forward(self, features):
        x = self.linear(features.flatten(1, 2))
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class Words(LanguageModel):
    dim, vocab_size = 4, 5

    def __init__(self):
        super().__init__(lambda: None)
        self.table = nn.Embedding(5, 4)

    def embed(self, input_ids):
        return self.table(input_ids)

    def forward(self, x, *, segments=None, state=None):
        return x.cumsum(1), None

    def logits(self, hidden):
        return hidden @ self.table.weight.T


def batch(number, image):
    ids = torch.arange(6)[None] % 5
    shown = torch.tensor([[image] * 4 + [False] * 2])
    pixel_values = torch.rand(1, 3, 2, 2, generator=torch.Generator().manual_seed(number)) if image else None
    return Batch(ids, shown, ~shown, None, pixel_values)


def run(kind, accelerator):
    torch.manual_seed(0)
    rank, strategy = accelerator.process_index, kind(accelerator)
    model = VLM(Patches(), Norm(), Words()).train()
    loss = strategy.wrap(SummedLoss(model, always_sees=True))
    norm, records = model.connector.norm, []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        batches = [batch(10 * step + 2 * rank + i, image=rank == 0 or step != 1) for i in range(2)]
        take_step(strategy, loss, optimizer, batches, 1.0, exchange(accelerator, batches).targets)
        records.append([int(norm.num_batches_tracked), norm.running_mean.tolist()])
    strategy.assert_in_sync(loss)
    norm.running_var.add_(rank)
    try:
        strategy.assert_in_sync(loss)
    except UserError as error:
        records.append(str(error))
    sys.stdout.write(json.dumps(records) + "\n")


def main():
    accelerator = Accelerator(cpu=True)
    for kind in (DDPStrategy, FSDP2Strategy):
        run(kind, accelerator)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    main()
