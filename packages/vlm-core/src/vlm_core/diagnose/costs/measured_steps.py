"""Measured costs of training steps, and who measures them: the package of the `train` section."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import NamedTuple, Protocol, runtime_checkable

from vlm_core.errors import UserError
from vlm_core.plugins.registry import installed
from vlm_core.spec.spec import Spec


class MeasureOptions(NamedTuple):
    """Number of GPUs that a step is shared out to, and text tokens of a synthetic sample."""

    gpus: int
    text: int


@dataclass(frozen=True)
class StepCosts:
    """Steps of one stage on one device, with the share of the batch that it has among `gpus` devices.

    `seconds` and `tokens` (padding included) are means over `timed` steps; `cpu_seconds`: CPU time of a step, None on a
    GPU. `peak_memory` in bytes: of tensors on a GPU, of the process up to this stage on a CPU; `growth`: since the
    measurement began; `reserved`: by the allocator of a GPU. `steps`: of the whole stage, None without data.
    `synthetic`: why samples were made up, empty if they are those of the spec.
    """

    stage: str
    device: str
    gpus: int
    samples: int
    micro_batch_size: int
    timed: int
    seconds: float
    cpu_seconds: float | None
    tokens: float
    peak_memory: int
    growth: int | None
    reserved: int | None
    mfu: float | None
    steps: int | None
    synthetic: str = ""

    @property
    def samples_per_second(self) -> float:
        """Of all devices, without communication."""
        return self.gpus * self.samples / self.seconds

    @property
    def tokens_per_second(self) -> float:
        return self.gpus * self.tokens / self.seconds

    def hours(self, steps: int) -> float:
        return steps * self.seconds / 3600


@runtime_checkable
class StepProfiler(Protocol):
    """A section of a spec that names, as `module:function`, what measures its steps: (spec, section, options)."""

    step_profiler: str


Measure = Callable[[MeasureOptions], list[StepCosts]]


def step_measurement(spec: Spec) -> Measure:
    """What times a few steps of each stage on the device at hand; raises `UserError` if nothing can."""
    if spec.train is None:
        raise UserError("--measure times training steps, and this spec has no train section")
    if "train" not in installed().names("section"):
        raise UserError("--measure needs the package that trains: pip install vlm-train")
    section = installed().get("section", "train").model_validate(spec.train)
    if not isinstance(section, StepProfiler):
        raise UserError("--measure: the package of the train section can't measure steps")
    module, _, function = section.step_profiler.partition(":")
    return partial(getattr(import_module(module), function), spec, section)
