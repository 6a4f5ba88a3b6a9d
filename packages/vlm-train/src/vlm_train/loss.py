"""Cross entropy of the targets, summed: the trainer divides by the tokens of the whole step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_core.model import VLM
from vlm_core.numerics.frozen_modules import BufferCopies
from vlm_core.text.batch import Batch


def target_count(batch: Batch) -> int:
    """How many tokens of a batch are predicted: position 0 has nothing before it."""
    return int(batch.loss_mask[:, 1:].sum())


class SummedLoss(nn.Module):
    """The module that is trained; wrapping loss and model together keeps wrappers such as DDP correct.

    With `always_sees` a batch without pictures sends a black one through encoder and connector, for nothing: several
    processes exchange weights and gradients layer by layer, so all must pass the same layers in both directions. No
    buffer keeps what such a pass writes. With `encoded` other batches bring features, and so does this one.
    """

    def __init__(self, model: VLM, *, always_sees: bool = False, encoded: bool = False) -> None:
        super().__init__()
        self.model, self.always_sees, self.encoded = model, always_sees, encoded

    def forward(self, batch: Batch) -> Tensor:
        """Sum over target tokens of -log p(token | what precedes it); logits exist only for targets."""
        pixels, features = self._seen(batch)
        with self._kept(batch, stands_in=pixels is not batch.pixel_values or features is not batch.features):
            hidden, _ = self.model(batch.input_ids, batch.image_mask, pixels, batch.segments, features)
        wanted = batch.loss_mask[:, 1:]
        logits = self.model.llm.logits(hidden[:, :-1][wanted])
        return F.cross_entropy(logits.float(), batch.input_ids[:, 1:][wanted], reduction="sum")

    def _seen(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Pixels and features of the batch, or of a black picture that no position of the batch stands for."""
        if batch.pixel_values is not None or batch.features is not None or not self.always_sees:
            return batch.pixel_values, batch.features
        encoder, device = self.model.encoder, batch.input_ids.device
        if not self.encoded:
            return torch.zeros(1, 3, *encoder.image_size, device=device), None
        return None, torch.zeros(1, *encoder.grid(*encoder.image_size), encoder.dim, device=device)

    def _kept(self, batch: Batch, *, stands_in: bool) -> AbstractContextManager[None]:
        """Around a pass: no buffer of a part that gets no row's own data changes."""
        parts = [self.model.encoder, self.model.connector] if stands_in else []
        parts += [] if target_count(batch) else [self.model.llm]
        return BufferCopies(*parts) if parts else nullcontext()

    @contextmanager
    def reading_pixels(self) -> Iterator[None]:
        """Inside, no batch brings features."""
        before, self.encoded = self.encoded, False
        try:
            yield
        finally:
            self.encoded = before
