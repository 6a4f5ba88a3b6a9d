"""Whether the stages of a run fit into the memory of a device, by the estimate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from vlm_core.diagnose.costs.estimate import CostEstimate, StageEstimate
from vlm_core.diagnose.costs.gpus import GPU, HEADROOM
from vlm_core.units import size


class Capacity(NamedTuple):
    """A device, the bytes of its memory (for a CPU those that are free), and how many of them tensors may take."""

    device: str
    memory: float
    usable: float

    @classmethod
    def of(cls, gpu: GPU) -> Capacity:
        memory = gpu.memory * 1e9
        return cls(gpu.name, memory, HEADROOM * memory)

    @classmethod
    def of_cuda(cls, device: torch.device) -> Capacity:
        """The memory of a GPU of this machine."""
        properties = torch.cuda.get_device_properties(device)
        memory = properties.total_memory
        return cls(properties.name, memory, HEADROOM * memory)


def misfits(estimate: CostEstimate, strategy: str, capacity: Capacity) -> Iterator[str]:
    """A line for each stage that needs more with samples of `max_length` than the device has, with what takes less.

    Of a stage with `micro_batch_size: auto` one sample must fit.
    """
    for stage in estimate.stages:
        need = stage.at_longest[strategy].total
        if need > capacity.usable:
            facts = stage.facts
            yield (
                f"stage {facts.name} needs {size(need)} by the estimate ({strategy}, micro-batch of {stage.micro}, "
                f"samples of {facts.max_length} positions), and {capacity.device} has {size(capacity.memory)}; "
                f"{_advice(stage, strategy)}"
            )


def _advice(stage: StageEstimate, strategy: str) -> str:
    facts = stage.facts
    less = [] if facts.checkpointing else ["activation_checkpointing: true"]
    less += [] if facts.auto or stage.micro == 1 else ["a smaller micro_batch_size, or auto"]
    less += ["a smaller max_length"]
    less += [] if strategy.startswith("FSDP2") else ["more GPUs with strategy: fsdp2"]
    return f"try {', '.join(less)}"
