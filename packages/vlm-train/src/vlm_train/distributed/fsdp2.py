"""The FSDP2 strategy: weights, gradients and optimizer state are sharded over the processes."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from vlm_core.errors import UserError
from vlm_core.model_folder.weights import vector_names
from vlm_core.numerics.layers import transformer_layers
from vlm_train.distributed.base import DDPStrategy
from vlm_train.loss import SummedLoss

UNIT = 2**24
"""Least number of parameters of a unit; smaller adjacent layers are gathered together."""


def units(layers: Sequence[nn.Module]) -> list[list[nn.Module]]:
    """Groups of adjacent layers of one type, each sharded as one unit: every unit costs hooks and collectives.

    Every layer of a unit must run in each forward pass, which those of encoders and language models do.
    """
    groups: list[list[nn.Module]] = []
    count = UNIT
    for layer in layers:
        if count >= UNIT or type(layer) is not type(groups[-1][0]):
            groups.append([])
            count = 0
        groups[-1].append(layer)
        count += sum(p.numel() for p in layer.parameters())
    return groups


@contextmanager
def unhooked(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Context without forward hooks, which run collectives and expect the same order on all processes."""
    hooks = [(module._forward_pre_hooks, module._forward_hooks) for module in modules]
    for module in modules:
        module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        for module, (before, after) in zip(modules, hooks, strict=True):
            module._forward_pre_hooks, module._forward_hooks = before, after


class FSDP2Strategy(DDPStrategy):
    """FSDP2: each matrix, its gradient and its optimizer state are sharded over the processes.

    Vectors (norms, biases) and the SSM parameters A_log, D and the bias of Δ are replicated in fp32, also where
    matrices are gathered in bf16; they are small. With `reshard_after_forward=False` weights stay gathered between a
    unit's forward and its backward (ZeRO-2's trade: more memory, one all-gather fewer).
    """

    name, sharded = "fsdp2", True

    def __init__(
        self, accelerator: Accelerator, *, bf16: bool = False, reshard_after_forward: bool = True
    ) -> None:
        super().__init__(accelerator, bf16=bf16)
        self.reshard_after_forward = reshard_after_forward

    def wrap(self, module: SummedLoss) -> nn.Module:
        # the states that layers return are views; no code writes to them in place
        warnings.filterwarnings(
            "ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning
        )
        vectors = {f"model.{name}" for name in vector_names(module.model)}
        self._replicated = [p for name, p in module.named_parameters() if name in vectors]
        device = self.accelerator.device
        for tensor in (*self._replicated, *module.buffers()):
            tensor.data = tensor.data.to(device)
        mesh = init_device_mesh(
            "cpu" if device.type == "meta" else device.type, (self.accelerator.num_processes,)
        )
        dtype = torch.bfloat16 if self.bf16 else None
        policy = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
        reshard = None if self.reshard_after_forward else False  # None: all units but the root
        for unit in (*units(transformer_layers(module.model)), module):
            fully_shard(
                unit,
                mesh=mesh,
                mp_policy=policy,
                ignored_params=set(self._replicated),
                reshard_after_forward=reshard,
            )
        if not isinstance(module, FSDPModule):
            raise UserError("train.strategy: fsdp2 did not shard the model")
        return module

    def no_sync(self, module: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()  # every micro-batch reduces its gradients: unsharded ones would not fit

    def weights_cast_once(self) -> AbstractContextManager[None]:
        return nullcontext()  # shards are cast, and weights gathered in bf16

    def backward(self, module: nn.Module, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def _clip(self, parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
        self._average([p for p in self._replicated if p.requires_grad])
        groups = [[p for p in parameters if isinstance(p, DTensor) is sharded] for sharded in (True, False)]
        norms = [get_total_norm([p.grad for p in group if p.grad is not None]) for group in groups]
        norm = torch.stack([n.full_tensor() if isinstance(n, DTensor) else n for n in norms]).norm()
        for group in groups:
            clip_grads_with_norm_(group, limit, norm)
        return norm

    def _average(self, parameters: list[nn.Parameter]) -> None:
        """Average the gradients that FSDP2 does not manage, in one all-reduce."""
        if not parameters:
            return
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        dist.all_reduce(flat)
        flat /= self.accelerator.num_processes
        for parameter, mean in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = mean.view_as(parameter)

    @contextmanager
    def unsharded(self, module: nn.Module) -> Iterator[None]:
        units = [m for m in module.modules() if isinstance(m, FSDPModule)]
        for unit in units:
            unit.unshard()
        try:
            with unhooked(units), self.accelerator.autocast():
                yield
        finally:
            for unit in units:
                unit.reshard()
