"""Training stages for the cost estimate, provided by the package of the `train` section. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from vlm_core.errors import UserError
from vlm_core.plugins.registry import installed
from vlm_core.spec.spec import Spec


@dataclass(frozen=True)
class StageFacts:
    """One stage of training.

    `rows()` counts the samples of an epoch by reading the data, and may raise `UserError`. `batch_size` is the total
    over all devices, `micro_batch_size` that of one device (None: its whole share; "auto": as many as fit).
    `max_length` is in positions including image tokens. `strategy` is one of `training_memory.STRATEGIES`, or "auto".
    `steps` overrides `epochs`. `features` is the dtype of the feature cache of a frozen encoder, which then runs once
    per image; None without a cache. `checkpointing`: layers are computed again in the backward pass.
    """

    name: str
    trainable: tuple[str, ...]
    batch_size: int
    micro_batch_size: int | Literal["auto"] | None
    max_length: int
    precision: Literal["fp32", "bf16"]
    epochs: float
    steps: int | None
    rows: Callable[[], int]
    features: str | None = None
    strategy: str = "auto"
    checkpointing: bool = False

    @property
    def auto(self) -> bool:
        """Whether the micro-batch size depends on the memory of the device."""
        return self.micro_batch_size == "auto"

    def micro(self, gpus: int) -> int:
        """Samples per micro-batch on one of `gpus` devices; 1 for `auto`."""
        share = max(1, self.batch_size // gpus)
        return min(share, 1 if self.micro_batch_size == "auto" else self.micro_batch_size or share)

    def samples(self) -> int | None:
        """Samples of the stage over all epochs; None if its data are not on this machine."""
        if self.steps is not None:
            return self.steps * self.batch_size
        try:
            return round(self.epochs * self.rows())
        except UserError:
            return None


@runtime_checkable
class HasStageFacts(Protocol):
    """A section with stages whose costs `--check` can estimate."""

    def stage_facts(self) -> list[StageFacts]: ...


def stages_of(spec: Spec) -> list[StageFacts]:
    """The stages of a spec's `train` section; empty without one, or if its package is not installed."""
    if spec.train is None or "train" not in installed().names("section"):
        return []
    section = installed().get("section", "train").model_validate(spec.train)
    return section.stage_facts() if isinstance(section, HasStageFacts) else []
