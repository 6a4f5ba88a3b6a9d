"""Model FLOPs utilization (MFU) of training steps, as measured: by GPU, trained parts and tokens of a micro-batch.

A small micro-batch is bound by launching kernels, so its MFU is far below that of a large one. Source: VL-Mamba-2.8B in
bf16 with fp32 master weights on one GPU, docs/measurements.md. To add a measurement, add a row.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

from vlm_core.diagnose.costs.gpus import GPU, GPUS


class MeasuredMFU(NamedTuple):
    """Steps with `tokens` positions a micro-batch; `llm`: whether they train the language model."""

    gpu: str
    llm: bool
    tokens: int
    mfu: float


TABLE = (
    MeasuredMFU("H200", True, 985, 0.053),
    MeasuredMFU("H200", True, 7880, 0.373),
    MeasuredMFU("H200", True, 15760, 0.400),
    MeasuredMFU("H200", False, 985, 0.060),
    MeasuredMFU("H200", False, 7880, 0.365),
    MeasuredMFU("H200", False, 15760, 0.378),
)


class Utilization(NamedTuple):
    """An MFU, the GPU on which it was measured, and whether that is the GPU that was asked for."""

    mfu: float
    gpu: str
    measured: bool


def utilization(gpu: GPU, *, llm: bool, tokens: float) -> Utilization:
    """The MFU of steps with `tokens` positions a micro-batch, interpolated over their logarithm.

    Outside of the measured range it is that of the nearest measurement. For a GPU without measurements, that of the
    measured GPU with the nearest peak rate is assumed.
    """
    names = {row.gpu for row in TABLE if row.llm is llm}
    nearest = min(sorted(names), key=lambda name: abs(math.log(GPUS[name].peak / gpu.peak)))
    name = gpu.name if gpu.name in names else nearest
    points = sorted((row.tokens, row.mfu) for row in TABLE if (row.gpu, row.llm) == (name, llm))
    return Utilization(_interpolated(points, tokens), name, measured=name == gpu.name)


def _interpolated(points: list[tuple[int, float]], tokens: float) -> float:
    """The value at `tokens` between the two points around it, or that of the first or last point."""
    if tokens <= points[0][0]:
        return points[0][1]
    for (low, before), (high, after) in pairwise(points):
        if tokens <= high:
            return before + (after - before) * math.log(tokens / low) / math.log(high / low)
    return points[-1][1]
