"""Cross entropy of the targets, summed: the trainer divides by the tokens of the whole step."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vlm_core.batch import Batch
from vlm_core.model import VLM


def target_count(batch: Batch) -> int:
    """How many tokens of a batch are predicted: position 0 has nothing before it."""
    return int(batch.is_target[:, 1:].sum())


class SummedLoss(nn.Module):
    """The module that is trained; wrapping loss and model together keeps wrappers such as DDP correct."""

    def __init__(self, model: VLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """Sum over target tokens of -log p(token | what precedes it); logits exist only for targets."""
        hidden, _ = self.model(batch.ids, batch.is_image, batch.pixels, batch.segments)
        wanted = batch.is_target[:, 1:]
        logits = self.model.llm.logits(hidden[:, :-1][wanted])
        return F.cross_entropy(logits.float(), batch.ids[:, 1:][wanted], reduction="sum")
