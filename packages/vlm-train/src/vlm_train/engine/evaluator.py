"""Evaluations during a stage; they leave modules, buffers and gradients as they were."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import nn

from vlm_core.numerics.frozen_modules import BufferCopies
from vlm_train.engine.stage_state import StageState


class Evaluator(ABC):
    """Measures every `every` steps (None: never between) and at a stage's last; records go to `file`."""

    file: ClassVar[str]
    every: int | None

    def due(self, step: int, steps: int) -> bool:
        """Whether to measure after step `step` of `steps`."""
        return step == steps or (self.every is not None and step % self.every == 0)

    @abstractmethod
    def measure(self, stage_state: StageState) -> dict[str, Any]:
        """The metrics of one record. Every process calls it; rank 0 writes its own result."""


@contextmanager
def resting(model: nn.Module) -> Iterator[None]:
    """Context of evaluation mode without gradients; restores every module's mode and every buffer."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), BufferCopies(model):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
