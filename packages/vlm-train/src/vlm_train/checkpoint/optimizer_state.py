"""Optimizer state by parameter name and slot: independent of parameter groups and of the number of processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vlm_core.errors import UserError
from vlm_train.checkpoint.dtensor import shard_rows, sharded_like
from vlm_train.checkpoint.sharded_safetensors import ShardedTensorReader


def named_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Tensors by `parameter|slot`, sharded where the parameter is."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}|{slot}": torch.as_tensor(value).detach()
        for parameter, state in optimizer.state.items()
        for slot, value in state.items()
    }


def restore(model: nn.Module, optimizer: torch.optim.Optimizer, saved: ShardedTensorReader) -> None:
    """Load saved state; raises `UserError` for state of a parameter that `model` does not have."""
    by_name = dict(model.named_parameters())
    counts_on_device = bool(optimizer.defaults.get("fused"))
    for key in saved:
        name, _, slot = key.partition("|")
        if not slot or name not in by_name:
            raise UserError(f"{saved.where}: the optimizer of this spec has no {key!r:.80}")
        parameter = by_name[name]
        value = _tensor_for(parameter, key, saved)
        if slot != "step" or counts_on_device:
            value = value.to(parameter.device)
        elif not value.is_floating_point():  # 8-bit optimizers count steps in a Python integer
            value = int(value)
        optimizer.state[parameter][slot] = value


def _tensor_for(parameter: nn.Parameter, key: str, saved: ShardedTensorReader) -> Tensor:
    """The tensor of this key; one of the parameter's shape is sharded as the parameter is."""
    if not isinstance(parameter, DTensor) or saved.shapes[key] != tuple(parameter.shape):
        return saved.tensor(key)
    return sharded_like(parameter, saved.tensor(key, shard_rows(parameter)).to(parameter.device))
