"""Memory and peak FLOP/s of GPUs: dense bf16 products with fp32 accumulation, from the vendors' data sheets."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_core.errors import UserError, choices

HEADROOM = 0.92
"""Share of a GPU's memory available to tensors; driver, libraries and fragmentation take the rest."""


@dataclass(frozen=True)
class GPU:
    """`memory` in GB of 10⁹ bytes, `peak` in FLOP/s."""

    name: str
    memory: float
    peak: float

    def holds(self, count: float) -> bool:
        return count <= HEADROOM * self.memory * 1e9


GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU("RTX-3090", 24, 71e12),
        GPU("RTX-4090", 24, 165e12),
        GPU("A100-40G", 40, 312e12),
        GPU("L40S", 48, 362e12),
        GPU("A100-80G", 80, 312e12),
        GPU("A800", 80, 312e12),
        GPU("H100", 80, 989e12),
        GPU("H200", 141, 989e12),
        GPU("B200", 180, 2250e12),
    )
}


def find_gpu(name: str) -> GPU:
    """The GPU of this name, ignoring case; raises `UserError` for an unknown one."""
    match = next((gpu for gpu in GPUS.values() if gpu.name.lower() == name.lower()), None)
    if match is None:
        raise UserError(f"unknown GPU {name!r}{choices(name, GPUS)}")
    return match


def smallest_gpu(count: float) -> GPU | None:
    """The GPU with the least memory that has room for `count` bytes, or None."""
    return next((gpu for gpu in sorted(GPUS.values(), key=lambda g: g.memory) if gpu.holds(count)), None)


def hours(flops: float, gpu: GPU, count: int, mfu: float) -> float:
    """Hours for `flops` FLOPs on `count` GPUs at a model FLOPs utilization of `mfu`."""
    return flops / (count * gpu.peak * mfu) / 3600
