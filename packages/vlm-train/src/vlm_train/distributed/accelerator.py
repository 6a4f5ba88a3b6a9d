"""The group of processes and its device: a function of the spec and of how many processes were started."""

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
_HIDES = "unset it; CUDA_VISIBLE_DEVICES= hides accelerators"
_ON_CPU = Override("leaves the accelerators unused", _HIDES)
_SET_BY_ACCELERATE = {
    "ACCELERATE_USE_FSDP": _SPREADS,
    "ACCELERATE_USE_DEEPSPEED": _SPREADS,
    "ACCELERATE_USE_MEGATRON_LM": _SPREADS,
    "ACCELERATE_USE_PARALLELISM_CONFIG": _SPREADS,
    "ACCELERATE_USE_SAGEMAKER": _SPREADS,
    "ACCELERATE_DYNAMO_BACKEND": _COMPILES,
    "ACCELERATE_USE_CPU": _ON_CPU,
}


def settle_environment() -> None:
    """Leave accelerate nothing to read; raises `UserError` for a variable that asks for what a spec can't say.

    The others say what the spec says, too: precision, micro-batches, clipping.
    """
    refuse_overrides()
    device = torch.accelerator.current_accelerator(check_available=True)
    another = Override("chooses another device", _HIDES, ("", device.type if device else "cpu"))
    rules = {**_SET_BY_ACCELERATE, "ACCELERATE_TORCH_DEVICE": another}
    if device is None:
        del rules["ACCELERATE_USE_CPU"]
    refuse_overrides(rules)
    hide_from_accelerate()


def accelerator_of(train: TrainConfig) -> Accelerator:
    """The group of processes, joined; raises `UserError` if a stage's batches can't be shared out among them."""
    settle_environment()
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
        cpu=not torch.accelerator.is_available(),  # or several processes on CPUs would each be alone
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=watchdog.longest(train.timeout)))],
    )
    assert accelerator.num_processes == world, (
        f"{world} processes were started, {accelerator.num_processes} joined"
    )
    return accelerator
