"""Throughput of a stage: samples and tokens per second, time spent waiting for data, memory, and MFU."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch

from vlm_core.diagnose.costs.gpus import GPUS
from vlm_core.runtime.peak_rss import peak_rss
from vlm_core.units import size

T = TypeVar("T")
WARMUP_STEPS = 3
"""Steps that the estimated time left does not count: the first compiles, and the next may need further kernels."""
_WINDOW = 50
"""Rates are averages over this many of the latest steps, without the first, which compiles."""


def peak_rate(device: torch.device, bf16: bool) -> float | None:
    """FLOP/s of dense bf16 products of a GPU in `vlm_core.diagnose.costs.gpus`; None for other devices and for fp32."""
    if device.type != "cuda" or not bf16:
        return None
    words = set(re.split(r"[\s-]+", torch.cuda.get_device_name(device)))
    if "PCIe" in words:  # its clock is lower than that of the SXM model of the same name
        return None
    for gpu in GPUS.values():
        name, _, variant = gpu.name.partition("-")
        if words >= ({name} if variant.endswith("G") else {name, variant} - {""}):
            return gpu.peak
    return None


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of tensors on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_rss()


def step_texts(loss: float, lr: float, metrics: Mapping[str, Any]) -> dict[str, str]:
    """What a progress display shows of a step, the most important first; `metrics` are those of `ThroughputMeter`."""
    samples = metrics["samples_per_second"]
    texts = {
        "loss": f"loss {loss:.3f}",
        "rate": f"{samples:,.1f} samples/s" if samples >= 1 else f"{samples:.2f} samples/s",
        "lr": f"lr {lr:.2g}",
        "tokens": f"{metrics['tokens_per_second']:,.0f} tokens/s",
        "wait": f"data wait {metrics['data_wait']:.0%}",
        "memory": f"peak {size(metrics['peak_memory'])}",
    }
    return texts | ({"mfu": f"MFU {metrics['mfu']:.0%}"} if "mfu" in metrics else {})


class ThroughputMeter:
    """Times the steps of one process; rates are multiplied by the number of processes."""

    def __init__(self, device: torch.device, world: int = 1, *, bf16: bool = False) -> None:
        self.device, self.world = device, world
        self.peak = peak_rate(device, bf16)
        self.flops_per_token: float | None = None
        self._last, self._waited = time.perf_counter(), 0.0
        self._steps = 0
        self._recent: deque[tuple[float, float, int, int]] = deque(maxlen=_WINDOW)

    def waiting(self, source: Iterator[T]) -> Iterator[T]:
        """The items of `source`; the time until each arrives counts as waiting for data."""
        while True:
            began = time.perf_counter()
            try:
                item = next(source)
            except StopIteration:
                return
            self._waited += time.perf_counter() - began
            yield item

    def count_flops(self, step: Callable[[], T], tokens: int) -> T:
        """Run one step; on a device with a known peak, count the FLOPs of the first one that has tokens."""
        if self.peak is None or self.flops_per_token is not None or not tokens:
            return step()
        from vlm_core.diagnose.costs.trace import Meter

        with Meter(set()) as meter:
            result = step()
        self.flops_per_token = meter.flops / tokens
        return result

    def after_step(self, samples: int, tokens: int) -> dict[str, Any]:
        """Metrics after a step of `samples` and `tokens`, padding included, on this process.

        `samples_per_second`, `tokens_per_second` of all processes, `data_wait` (share of the time), `peak_memory`
        (bytes) and, where it is known, `mfu` (share of the device's peak).
        """
        now = time.perf_counter()
        if self._steps == 1:
            self._recent.clear()
        self._steps += 1
        self._recent.append((now - self._last, self._waited, samples, tokens))
        self._last, self._waited = now, 0.0
        seconds, waited, samples, tokens = (sum(column) for column in zip(*self._recent, strict=True))
        metrics = {
            "samples_per_second": round(self.world * samples / seconds, 2),
            "tokens_per_second": round(self.world * tokens / seconds, 1),
            "data_wait": round(waited / seconds, 4),
            "peak_memory": peak_memory(self.device),
        }
        if self.peak and self.flops_per_token:
            metrics["mfu"] = round(self.flops_per_token * tokens / seconds / self.peak, 4)
        return metrics

    @property
    def step_seconds(self) -> float:
        """Seconds of a step, the mean over the latest ones."""
        return sum(seconds for seconds, *_ in self._recent) / len(self._recent)

    def pause(self) -> None:
        """Exclude the time since the last step, as of validation or a checkpoint, from the next one."""
        self._last, self._waited = time.perf_counter(), 0.0
