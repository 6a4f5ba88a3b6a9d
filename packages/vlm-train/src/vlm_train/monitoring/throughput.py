"""How fast a stage goes: samples and tokens a second, waiting for data, memory, and the share of the device's peak."""

from __future__ import annotations

import re
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from vlm_core.diagnose.costs.gpus import GPUS

T = TypeVar("T")
_STEPS = 50
"""Rates are those of so many latest steps, without the first, which compiles and warms up."""


def peak_rate(device: torch.device, bf16: bool) -> float | None:
    """FLOP/s of dense bf16 products of a GPU that the adviser's table knows; None for others and for fp32."""
    if device.type != "cuda" or not bf16:
        return None
    words = set(re.split(r"[\s-]+", torch.cuda.get_device_name(device)))
    if "PCIe" in words:  # another clock than the one of the same name in the table
        return None
    for gpu in GPUS.values():
        name, _, rest = gpu.name.partition("-")
        if words >= ({name} if rest.endswith("G") else {name, rest} - {""}):
            return gpu.peak
    return None


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: tensors on a GPU, the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class ThroughputMeter:
    """Clocks the steps of one process; rates are multiplied by the number of processes."""

    def __init__(self, device: torch.device, world: int = 1, *, bf16: bool = False) -> None:
        self.device, self.world = device, world
        self.peak = peak_rate(device, bf16)
        self.flops_a_token: float | None = None
        self._last, self._waited = time.perf_counter(), 0.0
        self._steps = 0
        self._recent: deque[tuple[float, float, int, int]] = deque(maxlen=_STEPS)

    def waiting(self, source: Iterator[T]) -> Iterator[T]:
        """The same items; the time until each comes is waiting for data."""
        while True:
            began = time.perf_counter()
            try:
                item = next(source)
            except StopIteration:
                return
            self._waited += time.perf_counter() - began
            yield item

    def count_flops(self, step: Callable[[], T], tokens: int) -> T:
        """Run one step and, the first time on a device with a known peak, count what it computes."""
        if self.peak is None or self.flops_a_token is not None or not tokens:
            return step()
        from vlm_core.diagnose.costs.trace import Meter

        with Meter(set()) as meter:
            result = step()
        self.flops_a_token = meter.flops / tokens
        return result

    def after_step(self, samples: int, tokens: int) -> dict[str, Any]:
        """A step of so many samples and tokens, padding included, is done: what the metrics say of it."""
        now = time.perf_counter()
        if self._steps == 1:
            self._recent.clear()
        self._steps += 1
        self._recent.append((now - self._last, self._waited, samples, tokens))
        self._last, self._waited = now, 0.0
        seconds, waited, samples, tokens = (sum(column) for column in zip(*self._recent, strict=True))
        told = {
            "samples_per_second": round(self.world * samples / seconds, 2),
            "tokens_per_second": round(self.world * tokens / seconds, 1),
            "data_wait": round(waited / seconds, 4),
            "peak_memory": peak_memory(self.device),
        }
        if self.peak and self.flops_a_token:
            told["mfu"] = round(self.flops_a_token * tokens / seconds / self.peak, 4)
        return told

    def pause(self) -> None:
        """What was done since the last step (validation, a checkpoint) is no part of the next."""
        self._last, self._waited = time.perf_counter(), 0.0
