"""Chooses the strategy of `train.strategy`."""

from __future__ import annotations

import logging

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object

from vlm_core.diagnose.costs.training_memory import DDP_SHARE, Sizes, auto_strategy, memory
from vlm_core.errors import UserError
from vlm_core.model import VLM
from vlm_core.units import size
from vlm_train.config.train import TrainConfig
from vlm_train.distributed.base import DDPStrategy
from vlm_train.distributed.fsdp2 import FSDP2Strategy

SUPPORTED = {
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_XPU,
    DistributedType.MULTI_NPU,
}
log = logging.getLogger(__name__)


def strategy_of(train: TrainConfig, accelerator: Accelerator, model: VLM | None = None) -> DDPStrategy:
    """The strategy of `train.strategy`; raises `UserError` if these processes can't run it.

    `auto` is ddp for a single process, on CPUs, without a `model` (on the meta device or not), and where a copy of its
    training state takes at most half of each GPU; otherwise fsdp2. All processes must call this.
    """
    world, strategy = accelerator.num_processes, train.strategy
    if accelerator.distributed_type not in SUPPORTED:
        raise UserError(
            f"accelerate's launcher or environment chooses {accelerator.distributed_type.value}, "
            "but train.strategy decides that: start with vlm-train run or torchrun"
        )
    if strategy != "auto" and world == 1:
        raise UserError(
            f"train.strategy: {strategy} needs several processes, and this is the only one: "
            "--nproc N starts more; auto runs on any number"
        )
    bf16 = train.precision == "bf16"
    name = _by_memory(train, accelerator, model) if model else train.cost_strategy()
    if name.startswith("FSDP2"):
        return FSDP2Strategy(accelerator, bf16=bf16, reshard_after_forward=train.reshard_after_forward)
    return DDPStrategy(accelerator, bf16=bf16)


def training_states(train: TrainConfig, model: VLM, strategy: str, world: int) -> dict[str, float]:
    """Bytes of weights, gradients and moments of one process in each stage, without adapters and averages."""
    bf16, result = train.precision == "bf16", {}
    for stage in train.stages:
        sizes = Sizes.of(model, stage.trained_parts())
        copies = 2 * sizes.trained if bf16 else 0
        result[stage.name] = memory(strategy, sizes, world, bf16=bf16, activations=0, copies=copies).total
    return result


def _by_memory(train: TrainConfig, accelerator: Accelerator, model: VLM) -> str:
    """The strategy for the GPUs of this run."""
    world, device, name = accelerator.num_processes, accelerator.device, train.cost_strategy()
    if device.type != "cuda":
        return "DDP" if name == "auto" else name
    gpu = min(gather_object([torch.cuda.get_device_properties(device).total_memory]))
    if name == "auto":
        most = max(training_states(train, model, "DDP", world).values())
        name = auto_strategy(most, gpu) if world > 1 else "DDP"
        if accelerator.is_main_process and world > 1:
            log.info(
                "strategy: auto is %s: with ddp, weights, gradients and moments take %s of each GPU's %s "
                "(ddp up to a share of %.0f%%)",
                "ddp" if name == "DDP" else "fsdp2",
                size(most),
                size(gpu),
                100 * DDP_SHARE,
            )
    return name
