"""Image preprocessing that belongs to an encoder's weights: values and their sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preprocessing:
    """How an encoder preprocesses an image, and the activation function of its blocks.

    `mean` and `std` are for R, G, B in [0, 1]. `resize_mode`, `crop_pct` and `interpolation` are those of a spec.
    `sources` maps a field to where its value was read: a file, a published tag, or the spec.
    """

    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize_mode: str
    crop_pct: float = 1.0
    activation: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, str, str]]:
        """(spec key, value, source) per field, for tables; without the activation if it is unknown."""
        values: dict[str, Any] = {
            "image_size": "×".join(map(str, self.image_size)),
            "mean": ", ".join(f"{value:.6g}" for value in self.mean),
            "std": ", ".join(f"{value:.6g}" for value in self.std),
            "interpolation": self.interpolation,
            "resize_mode": self.resize_mode,
        }
        if self.resize_mode == "crop":
            values["crop_pct"] = f"{self.crop_pct:.4g}"
        if self.activation:
            values["activation"] = self.activation
        return [(key, value, self.sources.get(key, "not reported")) for key, value in values.items()]


def preprocessing_rows(encoder: Any) -> list[tuple[str, str, str, str]]:
    """(encoder, key, value, source) of an encoder and of those inside it; empty if none reports its preprocessing."""
    return [
        (name, *row)
        for name, module in encoder.named_modules()
        if isinstance(facts := getattr(module, "preprocessing", None), Preprocessing)
        for row in facts.rows()
    ]
