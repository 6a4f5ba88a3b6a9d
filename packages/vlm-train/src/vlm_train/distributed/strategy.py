"""How a stage's model lies on the processes: a copy on each (DDP), or a shard of everything (FSDP2).

DeepSpeed's ways are in `zero`.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from vlm_core.diagnose.costs.memory import UNIT
from vlm_core.errors import UserError
from vlm_core.model_folder.weights import vector_names
from vlm_core.numerics.layers import transformer_layers
from vlm_core.text.batch import Batch
from vlm_train.checkpoint import optimizer_state
from vlm_train.checkpoint.dtensor import local
from vlm_train.checkpoint.sharded_safetensors import Pieces
from vlm_train.config.train import TrainConfig
from vlm_train.loss import SummedLoss

OWN = {DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.MULTI_XPU,
       DistributedType.MULTI_NPU}  # fmt: skip


def units(layers: Sequence[nn.Module]) -> list[list[nn.Module]]:
    """Neighbours of one kind that are gathered as one: each unit costs hooks and messages, so small ones are joined.

    Every layer of a unit must run in each forward pass, as towers and language models here do.
    """
    found: list[list[nn.Module]] = []
    held = UNIT
    for layer in layers:
        if held >= UNIT or type(layer) is not type(found[-1][0]):
            found.append([])
            held = 0
        found[-1].append(layer)
        held += sum(p.numel() for p in layer.parameters())
    return found


@contextmanager
def unhooked(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Forward hooks sleep: in one, a process alone would wait for the others, or remember an order that they don't."""
    hooks = [(module._forward_pre_hooks, module._forward_hooks) for module in modules]
    for module in modules:
        module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        for module, (before, after) in zip(modules, hooks, strict=True):
            module._forward_pre_hooks, module._forward_hooks = before, after


def bits(tensor: Tensor) -> Tensor:
    """A sum over the bits of a tensor: equal tensors have equal ones, NaN or not."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return flat.contiguous().view(integers[flat.element_size()]).sum(dtype=torch.int64)


class Replicated:
    """One process, or a copy of the model on each of several, whose gradients DDP averages."""

    name, sharded = "ddp", False

    def __init__(self, accelerator: Accelerator, *, bf16: bool = False) -> None:
        self.accelerator, self.bf16 = accelerator, bf16

    def wrap(self, module: SummedLoss) -> nn.Module:
        """The module that training calls."""
        wrapped = self.accelerator.prepare_model(module)
        if self.accelerator.num_processes > 1 and not isinstance(wrapped, DistributedDataParallel):
            raise UserError(f"train.strategy: ddp was asked for, but {type(wrapped).__name__} would run")
        if isinstance(wrapped, DistributedDataParallel):
            wrapped.broadcast_buffers = False  # a step sees to them, the same way for every strategy
        return wrapped

    def unwrapped(self, module: nn.Module) -> SummedLoss:
        """The module that validation calls."""
        inner = module.module if isinstance(module, DistributedDataParallel) else module
        assert isinstance(inner, SummedLoss)
        return inner

    def accumulating(self, module: nn.Module) -> AbstractContextManager[None]:
        """Around every micro-batch of a step but the last."""
        return self.accelerator.no_sync(module)

    def optimizing(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        """What steps: `optimizer` itself, or what looks like it and updates each process's part."""
        return optimizer

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
            # text alone says nothing to a connector: zero, as where other processes had images
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return self._clip(parameters, limit)

    def _clip(self, parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
        return torch.as_tensor(self.accelerator.clip_grad_norm_(list(parameters), limit))

    def written(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What this process writes of these into a checkpoint: its shards, and the rest if it is the first."""
        first = self.accelerator.is_main_process
        return {n: local(t) for n, t in tensors.items() if first or isinstance(t, DTensor)}

    def moments(self, model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
        """What this process writes of the optimizer's state, as `name|slot`."""
        return self.written(optimizer_state.of(model, optimizer))

    def recall(self, model: nn.Module, optimizer: Any, saved: Pieces) -> None:
        """Put the state of a checkpoint back, whatever wrote it."""
        optimizer_state.restore(model, optimizer, saved)

    def rest(self) -> None:
        """Nothing learns any more."""

    def compare(self, module: nn.Module) -> None:
        """Raises `UserError` if the processes' copies have come apart, as after a fault of memory or of a kernel."""
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
        """Weights that every process has a whole copy of, and that change."""
        own = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
        return {name: p for name, p in own.items() if not isinstance(p, DTensor)}

    @contextmanager
    def whole(self, module: nn.Module) -> Iterator[None]:
        """Inside, any process may call any method of the model, such as those that generate, by itself."""
        with self.accelerator.autocast():  # what stands still may be held in bf16
            yield


class Sharded(Replicated):
    """FSDP2: every process holds a part of each matrix, of its gradient and of its moments.

    Vectors (norms, biases) and what must stay fp32 (A_log, D, the bias of Δ) are small: each process holds them whole
    and in fp32, also where matrices are gathered in bf16.
    """

    name, sharded = "fsdp2", True

    def wrap(self, module: SummedLoss) -> nn.Module:
        # a state that a layer returns is a view of what it computed with; nothing is ever added to it in place
        warnings.filterwarnings(
            "ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning
        )
        vectors = {f"model.{name}" for name in vector_names(module.model)}
        self._whole = [p for name, p in module.named_parameters() if name in vectors]
        device = self.accelerator.device
        for tensor in (*self._whole, *module.buffers()):
            tensor.data = tensor.data.to(device)
        mesh = init_device_mesh(
            "cpu" if device.type == "meta" else device.type, (self.accelerator.num_processes,)
        )
        dtype = torch.bfloat16 if self.bf16 else None
        policy = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
        for unit in (*units(transformer_layers(module.model)), module):
            fully_shard(unit, mesh=mesh, mp_policy=policy, ignored_params=set(self._whole))
        if not isinstance(module, FSDPModule):
            raise UserError("train.strategy: fsdp2 was asked for, but the model was not sharded")
        return module

    def accumulating(self, module: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()  # gradients are shards after each micro-batch: whole ones would not fit

    def _clip(self, parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
        self._average([p for p in self._whole if p.requires_grad])
        apart = [[p for p in parameters if isinstance(p, DTensor) is sharded] for sharded in (True, False)]
        norms = [get_total_norm([p.grad for p in group if p.grad is not None]) for group in apart]
        norm = torch.stack([n.full_tensor() if isinstance(n, DTensor) else n for n in norms]).norm()
        for group in apart:
            clip_grads_with_norm_(group, limit, norm)
        return norm

    def _average(self, parameters: list[nn.Parameter]) -> None:
        """The gradients that FSDP2 doesn't know of, all in one message."""
        if not parameters:
            return
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        dist.all_reduce(flat)
        flat /= self.accelerator.num_processes
        for parameter, mean in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = mean.view_as(parameter)

    @contextmanager
    def whole(self, module: nn.Module) -> Iterator[None]:
        units = [m for m in module.modules() if isinstance(m, FSDPModule)]
        for unit in units:
            unit.unshard()
        try:
            with unhooked(units), self.accelerator.autocast():
                yield
        finally:
            for unit in units:
                unit.reshard()


def strategy_of(train: TrainConfig, accelerator: Accelerator) -> Replicated:
    """What `train.strategy` asks for; `UserError` if these processes would run something else."""
    world, wanted = accelerator.num_processes, train.strategy
    if accelerator.distributed_type not in OWN:
        raise UserError(
            f"accelerate was told to use {accelerator.distributed_type.value} by its launcher or environment, "
            "but train.strategy says how the model is spread: start with vlm-train run or torchrun"
        )
    if wanted != "auto" and world == 1:
        raise UserError(
            f"train.strategy: {wanted} needs several processes, and this is the only one: "
            "--nproc N starts more; auto runs on any number"
        )
    bf16 = train.precision == "bf16"
    if wanted in ("zero2", "zero3"):
        from vlm_train.distributed.deepspeed import Zero

        return Zero(accelerator, bf16=bf16, stage=int(wanted[-1]))
    return (Sharded if wanted == "fsdp2" else Replicated)(accelerator, bf16=bf16)
