"""Made-up micro-batches: one that takes as much memory as any of a stage, and one of samples of assumed length."""

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
    length = train.max_length
    images = length // model.image_tokens_by_default
    padded = length > 1
    return _batch(model, samples, length, images, text_only=False, padded=padded, encoded=encoded)


def assumed_batch(model: VLM, train: TrainConfig, samples: int, text: int) -> Batch:
    """`samples` samples as the cost estimate assumes them: an image and `text` text tokens, with loss on the text."""
    grid = model.image_tokens_by_default
    length = min(train.max_length, grid + text)
    images = min(1, length // grid)
    return _batch(model, samples, length, images, text_only=True, padded=False, encoded=False)


def _batch(
    model: VLM, samples: int, length: int, images: int, *, text_only: bool, padded: bool, encoded: bool
) -> Batch:
    """Samples with their images in front; `text_only`: no loss on these."""
    grid = model.image_tokens_by_default
    ids = torch.arange(samples * length).view(samples, length) % model.llm.vocab_size
    positions = torch.arange(length).expand(samples, -1)
    segments = torch.where(positions == length - 1, PADDING, 0) if padded else None
    image_mask = positions < images * grid
    loss_mask = ~image_mask if text_only else positions < max(2, length - 1)
    values = _images(model, samples * images, encoded) if images else None
    return Batch(
        ids,
        image_mask,
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
