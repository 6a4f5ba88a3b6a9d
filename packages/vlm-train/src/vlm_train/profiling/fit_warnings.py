"""Warnings, before a run, of stages that by the cost estimate do not fit into the memory of this machine's device."""

from __future__ import annotations

import torch

from vlm_core.diagnose.costs.estimate import Assumptions, estimate_costs
from vlm_core.diagnose.costs.fit import Capacity, misfits
from vlm_core.errors import UserError
from vlm_core.model import VLM
from vlm_core.spec.spec import Spec
from vlm_train.config.train import TrainConfig
from vlm_train.distributed.free_memory import free_ram


def capacity(device: torch.device) -> Capacity | None:
    """The memory of a GPU, or what is free of this machine's; None for a device of another kind."""
    if device.type == "cuda":
        return Capacity.of_cuda(device)
    if device.type == "cpu":
        free = free_ram()
        return Capacity("this machine's CPU", free, free)
    return None


def device_at_hand() -> torch.device:
    """The GPU or CPU that a run on this machine would use."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def strategy_label(train: TrainConfig, *, sharded: bool) -> str:
    """One of `vlm_core.diagnose.costs.training_memory.STRATEGIES`."""
    if not sharded:
        return "DDP"
    return "FSDP2" if train.reshard_after_forward else "FSDP2-gathered"


def fit_warnings(
    spec: Spec, train: TrainConfig, model: VLM, world: int, device: torch.device, *, sharded: bool
) -> list[str]:
    """A line for each stage that does not fit by the estimate; none if it can't be estimated.

    `model` on the meta device is used up.
    """
    limit = capacity(device)
    if limit is None:
        return []
    kind = "cuda" if device.type == "cuda" else "cpu"
    try:
        estimate = estimate_costs(spec, model, Assumptions(world, device=kind), memory_only=True)
    except UserError:  # a part that needs real values; the run itself may work
        return []
    return list(misfits(estimate, strategy_label(train, sharded=sharded), limit))
