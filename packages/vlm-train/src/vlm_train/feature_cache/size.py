"""The shape of an image's features, and the size of a stage's feature cache before anything is computed."""

from __future__ import annotations

import math

import numpy as np
import torch

from vlm_core.model import VLM
from vlm_core.rows import Rows
from vlm_core.units import size
from vlm_train.config.train import Stage, TrainConfig
from vlm_train.data.mixture import ConcatRows
from vlm_train.data.order.row_lengths import video_frames


def shape_of(model: VLM) -> tuple[int, int, int]:
    """(H, W, D) of an image's features."""
    return *model.encoder.grid(*model.encoder.image_size), model.encoder.dim


def estimate_cache_size(model: VLM, train: TrainConfig, stage: Stage, rows: ConcatRows) -> str | None:
    """A line with the cache size of a stage, an upper bound; None without a cache or without an index of the data."""
    dtype = train.feature_dtype(stage)
    if dtype is None or any(isinstance(part, Rows) and part.sizes() is None for part in rows.parts):
        return None
    sizes = rows.sizes()
    videos = sizes[:, 2]
    views = (sizes[:, 1] - videos) * model.image_processor.most_views + video_frames(rows, model, sizes)
    if stage.steps is not None:  # at most so many rows, in the worst case those with the most views
        views = np.sort(views)[::-1][: stage.steps * stage.batch_size]
    count, entry = int(views.sum()), math.prod(shape_of(model)) * getattr(torch, dtype).itemsize
    things = "images" if model.views is None else "views of images"
    things += " and frames" if videos.any() else ""
    text = f"features for {stage.name}: at most {count} {things} of {size(entry)}, {size(count * entry)}"
    return text if count else None
