"""The interface of strategies, and the default one: a single process, or DDP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from vlm_core.errors import UserError
from vlm_core.numerics.weight_casts import backward_in_thread, weights_cast_once
from vlm_core.text.batch import Batch
from vlm_train.checkpoint import optimizer_state
from vlm_train.checkpoint.dtensor import local
from vlm_train.checkpoint.sharded_safetensors import ShardedTensorReader
from vlm_train.loss import SummedLoss


def bits(tensor: Tensor) -> Tensor:
    """The sum of a tensor's bit patterns as integers: equal for equal tensors, NaN included."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return flat.contiguous().view(integers[flat.element_size()]).sum(dtype=torch.int64)


class DDPStrategy:
    """One process, or DDP: a replica of the model on each process, and averaged gradients.

    The base class of every strategy: training, checkpoints and evaluation call its methods alone.
    """

    name, sharded = "ddp", False

    def __init__(self, accelerator: Accelerator, *, bf16: bool = False) -> None:
        self.accelerator, self.bf16 = accelerator, bf16

    def wrap(self, module: SummedLoss) -> nn.Module:
        """The module that training calls."""
        wrapped = self.accelerator.prepare_model(module)
        if self.accelerator.num_processes > 1 and not isinstance(wrapped, DistributedDataParallel):
            raise UserError(
                f"train.strategy: expected DistributedDataParallel for ddp, got {type(wrapped).__name__}"
            )
        if isinstance(wrapped, DistributedDataParallel):
            wrapped.broadcast_buffers = False  # `take_step` averages buffers for every strategy
        return wrapped

    def unwrapped(self, module: nn.Module) -> SummedLoss:
        """The module that validation calls."""
        inner = module.module if isinstance(module, DistributedDataParallel) else module
        assert isinstance(inner, SummedLoss)
        return inner

    def no_sync(self, module: nn.Module) -> AbstractContextManager[None]:
        """Context for all micro-batches of a step but the last: gradients accumulate without a reduction."""
        return self.accelerator.no_sync(module)

    def weights_cast_once(self) -> AbstractContextManager[None]:
        """Context of all micro-batches of a step: weights are cast to the precision of the run once, not in each."""
        if self.accelerator.mixed_precision == "no":
            return nullcontext()
        return weights_cast_once(self.accelerator.device)

    def loss(self, module: nn.Module, batch: Batch, counted: Tensor | None = None) -> Tensor:
        """The summed loss of one micro-batch; `counted` as in `SummedLoss`."""
        with self.accelerator.autocast():
            return module(batch) if counted is None else module(batch, counted)

    def backward(self, module: nn.Module, loss: Tensor) -> None:
        """Add the gradients of one micro-batch. One process has one GPU, so that a thread for each gains nothing."""
        with backward_in_thread():
            self.accelerator.backward(loss)

    def clip(self, optimizer: Any, limit: float) -> Tensor:
        """Scale the step's gradients to a norm of at most `limit`; returns their norm before."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for parameter in parameters:
            # a step without images gives the connector no gradient; other processes may have had images
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return self._clip(parameters, limit)

    def _clip(self, parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
        return torch.as_tensor(self.accelerator.clip_grad_norm_(list(parameters), limit))

    def local_shards(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that this process writes into a checkpoint: its shards and, on rank 0, unsharded tensors."""
        main = self.accelerator.is_main_process
        return {n: local(t) for n, t in tensors.items() if main or isinstance(t, DTensor)}

    def optimizer_shards(self, model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
        """The optimizer state that this process writes into a checkpoint, by `parameter|slot`."""
        return self.local_shards(optimizer_state.named_state(model, optimizer))

    def load_optimizer(self, model: nn.Module, optimizer: Any, saved: ShardedTensorReader) -> None:
        """Load the optimizer state of a checkpoint that any strategy wrote."""
        optimizer_state.restore(model, optimizer, saved)

    def assert_in_sync(self, module: nn.Module) -> None:
        """Raise `UserError` if replicas differ between processes, as after a fault of memory or of a kernel."""
        if self.accelerator.num_processes == 1:
            return
        replicas = {**self._replicas(module), **dict(module.named_buffers())}
        if not replicas:
            return
        device = self.accelerator.device
        sums = self.accelerator.gather(torch.stack([bits(t).to(device) for t in replicas.values()])[None])
        assert isinstance(sums, Tensor)
        equal = (sums == sums[:1]).all(0).tolist()
        if differ := [name for name, same in zip(replicas, equal, strict=True) if not same]:
            more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
            names = ", ".join(name.removeprefix("module.").removeprefix("model.") for name in differ[:3])
            raise UserError(
                f"{names}{more}: not the same on the {len(sums)} processes. The cause is a fault of memory or of a "
                "kernel, or a module that writes different buffers. Nothing was saved; rerun the same command to "
                "resume from the last checkpoint"
            )

    def _replicas(self, module: nn.Module) -> dict[str, Tensor]:
        """Trained weights of which every process holds a replica."""
        params = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
        return {name: p for name, p in params.items() if not isinstance(p, DTensor)}

    @contextmanager
    def unsharded(self, module: nn.Module) -> Iterator[None]:
        """Context in which one process may call any method of the model, such as generation, without the others."""
        with self.accelerator.autocast():  # frozen weights may be kept in bf16
            yield
