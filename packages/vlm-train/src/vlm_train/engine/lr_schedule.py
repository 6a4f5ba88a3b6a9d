"""The learning rate over the steps of a stage, as a share of its peak."""

from __future__ import annotations

import math

import torch

from vlm_train.config.train import Stage


def scale(
    step: int,
    steps: int,
    warmup_ratio: float,
    schedule: str = "cosine",
    decay_ratio: float = 0.2,
    min_lr_ratio: float = 0.0,
) -> float:
    """Share of the peak rate at `step` (from 0).

    Linear warmup over `warmup_ratio`·steps; then `cosine` or `linear` down to `min_lr_ratio`, `constant`, or `wsd`:
    constant and in the last `decay_ratio`·steps linearly down to `min_lr_ratio`.
    """
    rising = math.ceil(warmup_ratio * steps)
    if step < rising:
        return (step + 1) / rising
    if schedule == "constant":
        return 1.0
    if schedule == "wsd":
        last = math.ceil(decay_ratio * steps)
        left = min(1.0, (steps - step) / last)
    else:
        left = 1 - (step - rising) / max(1, steps - rising)
    if schedule == "cosine":
        left = 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
    return min_lr_ratio + (1 - min_lr_ratio) * left


def share(stage: Stage, step: int, steps: int) -> float:
    """`scale` with a stage's settings."""
    return scale(step, steps, stage.warmup_ratio, stage.schedule, stage.wsd_decay_ratio, stage.min_lr_ratio)


def set_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set every group's learning rate to this share of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
