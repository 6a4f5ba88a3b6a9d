"""The accelerate `Accelerator` of a run: it follows from the spec and from the processes that were started."""

from __future__ import annotations

from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from vlm_core.errors import UserError
from vlm_core.runtime.env_vars import Override, hide_from_accelerate, refuse_overrides
from vlm_train.config.train import TrainConfig
from vlm_train.distributed import process_group, watchdog

_SPREADS = Override(
    "shards the model with accelerate's own strategies",
    "set train.strategy, and start with vlm-train run or torchrun",
)
_COMPILES = Override("compiles the model", "unset it; nothing here is compiled by torch")
_HIDE_ACCELERATORS = "unset it; CUDA_VISIBLE_DEVICES= hides accelerators"
_ON_CPU = Override("leaves the accelerators unused", _HIDE_ACCELERATORS)
_SET_BY_ACCELERATE = {
    "ACCELERATE_USE_FSDP": _SPREADS,
    "ACCELERATE_USE_DEEPSPEED": _SPREADS,
    "ACCELERATE_USE_MEGATRON_LM": _SPREADS,
    "ACCELERATE_USE_PARALLELISM_CONFIG": _SPREADS,
    "ACCELERATE_USE_SAGEMAKER": _SPREADS,
    "ACCELERATE_DYNAMO_BACKEND": _COMPILES,
    "ACCELERATE_USE_CPU": _ON_CPU,
}


def clear_environment() -> None:
    """Hide accelerate's environment variables; raises `UserError` for one that asks for what a spec can't express.

    The others (precision, micro-batches, clipping) have a key in the spec, which decides.
    """
    refuse_overrides()
    device = torch.accelerator.current_accelerator(check_available=True)
    another = Override("chooses another device", _HIDE_ACCELERATORS, ("", device.type if device else "cpu"))
    rules = {**_SET_BY_ACCELERATE, "ACCELERATE_TORCH_DEVICE": another}
    if device is None:
        del rules["ACCELERATE_USE_CPU"]
    refuse_overrides(rules)
    hide_from_accelerate()


def accelerator_of(train: TrainConfig) -> Accelerator:
    """Join the group of processes; raises `UserError` if a stage's batch size is not a multiple of their number."""
    clear_environment()
    here = process_group.place()
    world = here.world if here else 1
    for stage in train.stages:
        if stage.batch_size % world:
            raise UserError(
                f"stage {stage.name}: batch_size {stage.batch_size} is not divisible by {world} processes; "
                "change batch_size, or start fewer with --nproc"
            )
    accelerator = Accelerator(
        mixed_precision="bf16" if train.precision == "bf16" else "no",
        cpu=not torch.accelerator.is_available(),  # without it, processes on CPUs would not form a group
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=timedelta(seconds=watchdog.process_group_timeout(train.timeout)))
        ],
    )
    assert accelerator.num_processes == world, (
        f"{world} processes were started, {accelerator.num_processes} joined"
    )
    return accelerator
