"""Logits of transformers models: scaling and soft-capping of the head's output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor


@dataclass(frozen=True)
class LogitRule:
    """`cap * tanh(scale * logits / cap)`, or only the scale."""

    scale: float = 1.0
    cap: float | None = None

    MULTIPLIERS: ClassVar = ("logit_scale", "lm_head_multiplier")
    DIVISORS: ClassVar = ("logits_scaling",)
    CAPS: ClassVar = ("final_logit_softcapping", "logits_soft_cap")
    KNOWN: ClassVar = (*MULTIPLIERS, *DIVISORS, *CAPS)

    @classmethod
    def of(cls, config: Any) -> LogitRule:
        """Read the rule from the fields that transformers' configs use for it."""

        def value(name: str) -> float | None:
            number = getattr(config, name, None)
            return float(number) if isinstance(number, int | float) else None

        scale = 1.0
        for name in cls.MULTIPLIERS:
            scale *= 1.0 if (factor := value(name)) is None else factor
        for name in cls.DIVISORS:
            scale /= value(name) or 1.0
        return cls(scale, next((cap for name in cls.CAPS if (cap := value(name))), None))

    def __call__(self, logits: Tensor) -> Tensor:
        """(..., V) -> (..., V)."""
        logits = logits if self.scale == 1.0 else logits * self.scale
        return logits if self.cap is None else (logits / self.cap).tanh() * self.cap
