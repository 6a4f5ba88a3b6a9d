"""Chooses the strategy of `train.strategy`."""

from __future__ import annotations

from accelerate import Accelerator
from accelerate.utils import DistributedType

from vlm_core.errors import UserError
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


def strategy_of(train: TrainConfig, accelerator: Accelerator) -> DDPStrategy:
    """The strategy of `train.strategy`; raises `UserError` if these processes can't run it."""
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
    if strategy == "fsdp2":
        return FSDP2Strategy(accelerator, bf16=bf16, reshard_after_forward=train.reshard_after_forward)
    return DDPStrategy(accelerator, bf16=bf16)
