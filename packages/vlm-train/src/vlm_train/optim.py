"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from vlm_core.model import PARTS, VLM
from vlm_train.config import Stage


def freeze_all_but(model: VLM, parts: list[str]) -> None:
    """Gradients and training mode for `parts`; everything else stands still, statistics included."""
    for part in PARTS:
        module: nn.Module = getattr(model, part)
        module.requires_grad_(part in parts)
        module.train(part in parts)


def decays(parameter: nn.Parameter) -> bool:
    """Vectors (biases, norms, D) and whatever is marked `_no_weight_decay` (A_log) get no weight decay."""
    return parameter.ndim >= 2 and not getattr(parameter, "_no_weight_decay", False)


def optimizer(model: VLM, stage: Stage) -> torch.optim.AdamW:
    """AdamW with one group a part and decay rule; `peak` is what the schedule scales."""
    groups = []
    for part in stage.trains:
        for decay in (True, False):
            parameters = [p for p in getattr(model, part).parameters() if decays(p) == decay]
            wd = stage.weight_decay if decay else 0.0
            groups.append(
                {"params": parameters, "lr": stage.rate(part), "peak": stage.rate(part), "weight_decay": wd}
            )
    return torch.optim.AdamW([g for g in groups if g["params"]])


def scale(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate at `step` (from 0): linear warmup over `warmup`·steps, then cosine to 0."""
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def set_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set every group to this share of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
