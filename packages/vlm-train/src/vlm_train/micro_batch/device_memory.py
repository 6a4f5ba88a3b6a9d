"""The memory that a process may use: of its GPU, or of the machine for training on a CPU."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from vlm_core.diagnose.costs.gpus import HEADROOM
from vlm_core.diagnose.costs.trace import SavedTensors
from vlm_core.errors import UserError
from vlm_core.runtime.system_faults import OUT_OF_MEMORY, system_fault
from vlm_train.distributed.free_memory import free_ram

RAM_SHARE = 0.5
"""Share of the free memory that the activations of a micro-batch may take on a CPU."""


class DeviceMemory(Protocol):
    """What the search for a micro-batch asks of a device; tests pass their own."""

    name: str

    def limit(self) -> int:
        """Bytes that the tensors of this process may take."""
        ...

    def allocated(self) -> int:
        """Bytes that its tensors take now."""
        ...

    def peak(self, step: Callable[[], object]) -> int | None:
        """The most bytes that its tensors take during `step`, None if it ran out of memory."""
        ...

    def release(self) -> None:
        """Give cached memory back, and forget the peak."""
        ...


class CudaMemory:
    """A GPU of CUDA or ROCm, which other processes may use too."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.name = device, torch.cuda.get_device_name(device)

    def limit(self) -> int:
        self.release()
        free, _ = torch.cuda.mem_get_info(self.device)
        return int(HEADROOM * (free + torch.cuda.memory_reserved(self.device)))

    def allocated(self) -> int:
        return torch.cuda.memory_allocated(self.device)

    def peak(self, step: Callable[[], object]) -> int | None:
        self.release()
        try:
            step()
            torch.cuda.synchronize(self.device)
        except RuntimeError as error:
            if (fault := system_fault(error)) is None or fault.code != OUT_OF_MEMORY:
                raise
            return None
        return torch.cuda.max_memory_allocated(self.device)

    def release(self) -> None:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)


class CpuMemory:
    """The memory of the machine, for activations alone: what `peak` counts are the tensors that autograd keeps.

    Running out of it would end the process. `module` is the trained one, whose weights are not counted.
    """

    name = "CPU"

    def __init__(self, module: nn.Module) -> None:
        self._weights = {p.untyped_storage()._cdata for p in module.parameters()}

    def limit(self) -> int:
        return int(RAM_SHARE * free_ram())

    def allocated(self) -> int:
        return 0

    def peak(self, step: Callable[[], object]) -> int | None:
        saved = SavedTensors(self._weights)
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
            step()
        return saved.bytes()

    def release(self) -> None:
        pass


def device_memory(device: torch.device, module: nn.Module) -> DeviceMemory:
    """The memory of a GPU or CPU; raises `UserError` for a device whose memory can't be measured."""
    if device.type == "cuda":
        return CudaMemory(device)
    if device.type == "cpu":
        return CpuMemory(module)
    raise UserError(
        f"micro_batch_size: auto measures memory on CUDA, ROCm and CPUs, not on {device.type}: set a number"
    )
