"""What the adviser needs to know of training. Whoever owns the `train` section tells it; imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from vlm_core.errors import UserError
from vlm_core.plugins.registry import installed
from vlm_core.spec.spec import Spec


@dataclass(frozen=True)
class StageFacts:
    """One stage. `rows` counts the samples of an epoch by reading the data, and may raise `UserError`.

    `batch_size` is over all devices; `micro_batch_size` on one, None for all of its share. `max_length` counts
    positions of a sample, image tokens included. With `steps`, `epochs` says nothing. `features` is the dtype in which
    features of a frozen encoder are kept, so that it runs once an image; None if it runs in every step.
    """

    name: str
    trainable: tuple[str, ...]
    batch_size: int
    micro_batch_size: int | None
    max_length: int
    precision: Literal["fp32", "bf16"]
    epochs: float
    steps: int | None
    rows: Callable[[], int]
    features: str | None = None

    def micro(self, gpus: int) -> int:
        """Samples at once on one of `gpus` devices."""
        share = max(1, self.batch_size // gpus)
        return min(share, self.micro_batch_size or share)

    def samples(self) -> int | None:
        """Samples that the whole stage reads, epochs counted; None if its data are not on this machine."""
        if self.steps is not None:
            return self.steps * self.batch_size
        try:
            return round(self.epochs * self.rows())
        except UserError:
            return None


@runtime_checkable
class HasStageFacts(Protocol):
    """What a section's class offers so that `--check` can advise on its stages."""

    def stage_facts(self) -> list[StageFacts]: ...


def stages_of(spec: Spec) -> list[StageFacts]:
    """The stages of a spec's `train` section; none without one, or if its owner doesn't tell."""
    if spec.train is None or "train" not in installed().names("section"):
        return []
    section = installed().get("section", "train").model_validate(spec.train)
    return section.stage_facts() if isinstance(section, HasStageFacts) else []
