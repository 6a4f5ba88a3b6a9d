"""Steps of training that leave no trace, by which the memory of a micro-batch is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from vlm_core.errors import UserError
from vlm_core.numerics.frozen_modules import BufferCopies
from vlm_train.checkpoint.dtensor import local
from vlm_train.config.train import TrainConfig
from vlm_train.distributed.base import DDPStrategy
from vlm_train.engine.stage_state import StageState
from vlm_train.engine.train_step import take_step
from vlm_train.loss import target_count
from vlm_train.micro_batch.device_memory import DeviceMemory
from vlm_train.micro_batch.longest_batch import longest_batch
from vlm_train.micro_batch.search import Trial


class _Alone:
    """The accelerator of a run, as if its process were the only one: nothing is exchanged."""

    num_processes = 1

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)

    def reduce(self, tensor: Tensor, *_: Any) -> Tensor:
        return tensor

    def no_sync(self, module: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()


class _NoUpdate:
    """The optimizer of a trial: it changes no weight, and notes the memory of a step's end, with all gradients."""

    def __init__(self, optimizer: Any, memory: DeviceMemory) -> None:
        self._optimizer, self._memory, self.resident = optimizer, memory, 0

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self._optimizer.param_groups

    def step(self) -> None:
        pass

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.resident = self._memory.allocated()
        self._optimizer.zero_grad(set_to_none=set_to_none)


@contextmanager
def leaving_no_trace(state: StageState) -> Iterator[None]:
    """Context whose steps change no buffer, no random state and no gradient."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices), BufferCopies(state.model):
        try:
            yield
        finally:
            state.optimizer.zero_grad(set_to_none=True)


def missing_moments(state: StageState) -> int:
    """Bytes of the optimizer's two moments that its first step will allocate."""
    item = 1 if state.stage.optimizer == "adamw-8bit" else None
    params = [p for group in state.optimizer.param_groups for p in group["params"]]
    shards = [local(p) for p in params if not state.optimizer.state.get(p)]
    return 2 * sum(shard.numel() * (item or shard.element_size()) for shard in shards)


class TrialSteps:
    """Makes trials of a stage on all processes, which must call it together."""

    def __init__(
        self, state: StageState, train: TrainConfig, memory: DeviceMemory, *, encoded: bool = False
    ) -> None:
        self.state, self.train, self.memory, self.encoded = state, train, memory, encoded
        strategy: DDPStrategy = state.strategy
        self.accelerator: Any = strategy.accelerator
        self.strategy = strategy
        if (
            not strategy.sharded
        ):  # replicas exchange nothing: one that runs out of memory keeps no other waiting
            alone: Any = _Alone(self.accelerator)
            self.strategy = DDPStrategy(alone, bf16=strategy.bf16)
        self.module = state.module if strategy.sharded else strategy.unwrapped(state.module)

    def limit(self, share: int) -> int:
        """Bytes that a trial may take on every process.

        Room is left for moments that do not exist yet, and for the inputs of a step's `share` samples, which are
        copied to the device together.
        """
        sample = longest_batch(self.state.model, self.train, 1, encoded=self.encoded)
        later = missing_moments(self.state) + share * sample.nbytes
        return min(gather_object([self.memory.limit() - later]))

    def __call__(self, size: int) -> Trial | None:
        """A step of two micro-batches of `size` samples, as gradients exist from the second on; None: out of memory."""
        optimizer = _NoUpdate(self.state.optimizer, self.memory)
        with leaving_no_trace(self.state):
            peak = self.memory.peak(partial(self._step, size, optimizer))
        self.memory.release()
        if peak is None and self.strategy.sharded:
            raise UserError(
                f"stage {self.state.stage.name}: micro_batch_size: auto ran out of memory with {size} samples, and a "
                "sharded step can't be taken back: set a number, or activation_checkpointing: true"
            )
        everywhere: list[tuple[int | None, int]] = gather_object([(peak, optimizer.resident)])
        peaks = [each for each, _ in everywhere if each is not None]
        if len(peaks) < len(everywhere):
            return None
        return Trial(size, max(peaks), min(resident for _, resident in everywhere))

    def _step(self, size: int, optimizer: _NoUpdate) -> None:
        batch = longest_batch(self.state.model, self.train, size, encoded=self.encoded)
        targets = 2 * target_count(batch) * self.strategy.accelerator.num_processes
        take_step(
            self.strategy, self.module, optimizer, [batch, batch], self.state.stage.max_grad_norm, targets
        )
