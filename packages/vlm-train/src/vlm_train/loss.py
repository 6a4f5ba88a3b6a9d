"""Cross entropy summed over target tokens; the trainer divides by the number of targets of the whole step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from vlm_core.model import VLM
from vlm_core.numerics.frozen_modules import BufferCopies
from vlm_core.numerics.linear_cross_entropy import summed_cross_entropy
from vlm_core.text.batch import Batch


def target_count(batch: Batch) -> int:
    """Number of predicted tokens of a batch."""
    return len(batch.targets)


class SummedLoss(nn.Module):
    """The module that a stage trains: model and loss together, so that wrappers such as DDP see one forward pass.

    With `always_sees`, a batch without images sends one black image through encoder and connector, at no position of
    the batch. Several processes exchange weights and gradients layer by layer, so all of them must run the same layers
    forward and backward. Buffers keep nothing of such a pass. With `encoded`, batches bring features instead of pixels.
    """

    def __init__(self, model: VLM, *, always_sees: bool = False, encoded: bool = False) -> None:
        super().__init__()
        self.model, self.always_sees, self.encoded = model, always_sees, encoded

    def forward(self, batch: Batch, counted: Tensor | None = None) -> Tensor:
        """Sum over the target tokens of -log p(token | preceding tokens), in nats; only they have logits.

        With `counted` (n), as of `padded_batch.padded`, only of those targets for which it is true.
        """
        pixels, features = self._images(batch)
        black = pixels is not batch.pixel_values or features is not batch.features
        with self._buffers_kept(batch, black=black):
            hidden, _ = self.model(
                batch.input_ids, batch.image_mask, pixels, batch.segments, features, batch.image_order
            )
        predicting = hidden.flatten(0, 1).index_select(0, batch.targets - 1)
        labels = batch.input_ids.flatten().index_select(0, batch.targets)
        return summed_cross_entropy(self.model.llm, predicting, labels, counted)

    def _images(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Pixels and features of the batch, or of one black image."""
        if batch.pixel_values is not None or batch.features is not None or not self.always_sees:
            return batch.pixel_values, batch.features
        encoder, device = self.model.encoder, batch.input_ids.device
        if not self.encoded:
            return torch.zeros(1, 3, *encoder.image_size, device=device), None
        return None, torch.zeros(1, *encoder.grid(*encoder.image_size), encoder.dim, device=device)

    def _buffers_kept(self, batch: Batch, *, black: bool) -> AbstractContextManager[None]:
        """Context of a forward pass in which parts that process no data of the batch write to copies of buffers."""
        parts = [self.model.encoder, self.model.connector] if black else []
        parts += [] if target_count(batch) else [self.model.llm]
        return BufferCopies(*parts) if parts else nullcontext()

    @contextmanager
    def reading_pixels(self) -> Iterator[None]:
        """Context in which batches bring pixels, whatever `encoded` is."""
        before, self.encoded = self.encoded, False
        try:
            yield
        finally:
            self.encoded = before
