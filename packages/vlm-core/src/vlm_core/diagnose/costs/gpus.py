"""GPUs by name: memory, and peak rate of dense bf16 products with fp32 sums, from their makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_core.errors import UserError, choices

MFU = 0.3
"""Share of the peak that training reaches; an assumption, which a measured run of one's own should replace."""
HEADROOM = 0.92
"""Share of a GPU's memory that tensors can fill: the rest is for the driver, libraries and gaps."""


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
    """By name, capitals or not; raises `UserError` for one that isn't in the table."""
    found = next((gpu for gpu in GPUS.values() if gpu.name.lower() == name.lower()), None)
    if found is None:
        raise UserError(f"unknown GPU {name!r}{choices(name, GPUS)}")
    return found


def smallest_gpu(count: float) -> GPU | None:
    """The GPU with the least memory that holds so many bytes, or None."""
    return next((gpu for gpu in sorted(GPUS.values(), key=lambda g: g.memory) if gpu.holds(count)), None)


def hours(flops: float, gpu: GPU, count: int, mfu: float = MFU) -> float:
    """Time for so many FLOPs on `count` GPUs at the share `mfu` of their peak."""
    return flops / (count * gpu.peak * mfu) / 3600
