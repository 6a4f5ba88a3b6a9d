"""A micro-batch that takes at least as much memory as any that the data of a stage can bring."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_core.interfaces import PADDING
from vlm_core.model import VLM
from vlm_core.text.batch import Batch
from vlm_train.config.train import TrainConfig


def longest_batch(model: VLM, train: TrainConfig, samples: int, *, encoded: bool) -> Batch:
    """`samples` samples of `max_length` positions, with as many images as these hold and loss on every position.

    The last position is padding, as batches have it; with `encoded` images are features instead of pixels. Nothing
    here draws random numbers.
    """
    length, grid = train.max_length, model.image_tokens_by_default
    images = length // grid
    ids = torch.arange(samples * length).view(samples, length) % model.llm.vocab_size
    positions = torch.arange(length).expand(samples, -1)
    segments = torch.where(positions == length - 1, PADDING, 0) if length > 1 else None
    loss_mask = positions < max(2, length - 1)
    values = _images(model, samples * images, encoded) if images else None
    return Batch(
        ids,
        positions < images * grid,
        loss_mask,
        segments,
        None if encoded else values,
        values if encoded else None,
    )


def _images(model: VLM, count: int, encoded: bool) -> Tensor:
    """Black images, or features of zeros."""
    encoder = model.encoder
    if encoded:
        return torch.zeros(count, *encoder.grid(*encoder.image_size), encoder.dim)
    return torch.zeros(count, 3, *encoder.image_size)
