"""What is measured of a model while a stage trains it. Training goes on as if it had not happened."""

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
        """Whether it is time after step `step` of `steps`."""
        return step == steps or (self.every is not None and step % self.every == 0)

    @abstractmethod
    def measure(self, stage_state: StageState) -> dict[str, Any]:
        """What goes into the record; every process calls it, the first one's is kept."""


@contextmanager
def resting(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own mode comes back, and every buffer is as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), BufferCopies(model):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
