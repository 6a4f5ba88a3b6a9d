"""The strategy contract, and its default: one process, or a replica of the model on each of several (DDP)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from vlm_core.errors import UserError
from vlm_core.text.batch import Batch
from vlm_train.checkpoint import optimizer_state
from vlm_train.checkpoint.dtensor import local
from vlm_train.checkpoint.sharded_safetensors import ShardedTensorReader
from vlm_train.loss import SummedLoss


def bits(tensor: Tensor) -> Tensor:
    """A sum over the bits of a tensor: equal tensors have equal ones, NaN or not."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return flat.contiguous().view(integers[flat.element_size()]).sum(dtype=torch.int64)


class DDPStrategy:
    """One process, or a replica of the model on each of several, whose gradients DDP averages.

    The base class of every strategy: training, checkpoints and evaluation call nothing but its methods.
    """

    name, sharded = "ddp", False

    def __init__(self, accelerator: Accelerator, *, bf16: bool = False) -> None:
        self.accelerator, self.bf16 = accelerator, bf16

    def wrap(self, module: SummedLoss) -> nn.Module:
        """The module that training calls."""
        wrapped = self.accelerator.prepare_model(module)
        if self.accelerator.num_processes > 1 and not isinstance(wrapped, DistributedDataParallel):
            raise UserError(f"train.strategy: ddp was asked for, but {type(wrapped).__name__} would run")
        if isinstance(wrapped, DistributedDataParallel):
            wrapped.broadcast_buffers = False  # `take_step` averages them, the same way for every strategy
        return wrapped

    def unwrapped(self, module: nn.Module) -> SummedLoss:
        """The module that validation calls."""
        inner = module.module if isinstance(module, DistributedDataParallel) else module
        assert isinstance(inner, SummedLoss)
        return inner

    def no_sync(self, module: nn.Module) -> AbstractContextManager[None]:
        """Context of every micro-batch of a step but the last: gradients accumulate without a reduction."""
        return self.accelerator.no_sync(module)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """The summed loss of one micro-batch."""
        with self.accelerator.autocast():
            return module(batch)

    def backward(self, module: nn.Module, loss: Tensor) -> None:
        """Add the gradients of one micro-batch."""
        self.accelerator.backward(loss)

    def clip(self, optimizer: Any, limit: float) -> Tensor:
        """Scale the step's gradients to a norm of at most `limit`; -> their norm before."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for parameter in parameters:
            # a step of text alone gives the connector no gradient: zero, as on processes that had images
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return self._clip(parameters, limit)

    def _clip(self, parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
        return torch.as_tensor(self.accelerator.clip_grad_norm_(list(parameters), limit))

    def local_shards(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that this process writes into a checkpoint: its shards; rank 0 also unsharded tensors."""
        first = self.accelerator.is_main_process
        return {n: local(t) for n, t in tensors.items() if first or isinstance(t, DTensor)}

    def optimizer_shards(self, model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
        """The optimizer state that this process writes into a checkpoint, keyed `name|slot`."""
        return self.local_shards(optimizer_state.named_state(model, optimizer))

    def load_optimizer(self, model: nn.Module, optimizer: Any, saved: ShardedTensorReader) -> None:
        """Restore the optimizer state of a checkpoint, whichever strategy wrote it."""
        optimizer_state.restore(model, optimizer, saved)

    def assert_in_sync(self, module: nn.Module) -> None:
        """Raise `UserError` if the replicas on the processes differ, as after a fault of memory or of a kernel."""
        if self.accelerator.num_processes == 1:
            return
        copies = {**self._copies(module), **dict(module.named_buffers())}
        if not copies:
            return
        device = self.accelerator.device
        sums = self.accelerator.gather(torch.stack([bits(t).to(device) for t in copies.values()])[None])
        assert isinstance(sums, Tensor)
        if differ := [
            n for n, same in zip(copies, (sums == sums[:1]).all(0).tolist(), strict=True) if not same
        ]:
            more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
            names = ", ".join(name.removeprefix("module.").removeprefix("model.") for name in differ[:3])
            raise UserError(
                f"{names}{more}: not the same on the {len(sums)} processes. This must never happen (a fault of "
                "memory or of a kernel, or a module that writes different buffers). Nothing was saved; rerun the "
                "same command to resume from the last checkpoint"
            )

    def _copies(self, module: nn.Module) -> dict[str, Tensor]:
        """Trained weights of which every process holds a replica."""
        params = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
        return {name: p for name, p in params.items() if not isinstance(p, DTensor)}

    @contextmanager
    def unsharded(self, module: nn.Module) -> Iterator[None]:
        """Context in which any process may call any method of the model by itself, such as those that generate."""
        with self.accelerator.autocast():  # frozen weights may be kept in bf16
            yield
