"""Made-up micro-batches: one that takes as much memory as any of a stage, and one of samples of assumed length."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vlm_core.interfaces import PADDING
from vlm_core.model import VLM
from vlm_core.text.batch import Batch
from vlm_train.config.train import TrainConfig


def longest_batch(model: VLM, train: TrainConfig, samples: int, *, encoded: bool) -> Batch:
    """`samples` samples of `max_length` positions, with as many views as these hold and loss on every position.

    The last position is padding, as batches have it; with `encoded` images are features instead of pixels. Nothing
    here draws random numbers.
    """
    length, tokens = train.max_length, model.image_tokens_by_default
    counts = model.view_counts
    views = length // tokens if counts is None else counts.most_views(length)
    shape = _Shape(samples, length, views, min(length, views * tokens))
    return _batch(model, shape, text_only=False, padded=length > 1, encoded=encoded)


def assumed_batch(model: VLM, train: TrainConfig, samples: int, text: int) -> Batch:
    """`samples` samples as the cost estimate assumes them: an image and `text` text tokens, with loss on the text."""
    counts, tokens = model.view_counts, model.image_tokens_by_default
    views, positions = (1, tokens) if counts is None else (counts.usual.views, counts.usual.positions)
    length = min(train.max_length, positions + text)
    if length < positions:
        views = positions = 0
    return _batch(
        model, _Shape(samples, length, views, positions), text_only=True, padded=False, encoded=False
    )


class _Shape(NamedTuple):
    """Number of samples; positions, views and image positions of each."""

    samples: int
    length: int
    views: int
    image_positions: int


def _batch(model: VLM, shape: _Shape, *, text_only: bool, padded: bool, encoded: bool) -> Batch:
    """Samples with their images in front; `text_only`: no loss on these."""
    samples, length, views, image_positions = shape
    ids = torch.arange(samples * length).view(samples, length) % model.llm.vocab_size
    positions = torch.arange(length).expand(samples, -1)
    segments = torch.where(positions == length - 1, PADDING, 0) if padded else None
    image_mask = positions < image_positions
    loss_mask = ~image_mask if text_only else positions < max(2, length - 1)
    values = _images(model, samples * views, encoded) if views else None
    batch = Batch(
        ids,
        image_mask,
        loss_mask,
        segments,
        None if encoded else values,
        values if encoded else None,
    )
    if model.views is not None and views:
        starts = torch.arange(samples).unsqueeze(1) * views * model.image_tokens_by_default
        tokens = views * model.image_tokens_by_default  # a newline's row is as good as another
        batch.image_order = (starts + torch.arange(image_positions) % tokens).flatten()
    return batch


def _images(model: VLM, count: int, encoded: bool) -> Tensor:
    """Black images, or features of zeros."""
    encoder = model.encoder
    if encoded:
        return torch.zeros(count, *encoder.grid(*encoder.image_size), encoder.dim)
    return torch.zeros(count, 3, *encoder.image_size)
