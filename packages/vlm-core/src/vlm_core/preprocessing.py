"""Image preprocessing that belongs to an encoder's weights: the values, and the source of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preprocessing:
    """How an encoder brings an image to its first layer, and the activation that its blocks compute.

    `mean` and `std` are of R, G, B in [0, 1]. `resize_mode`, `crop_pct` and `interpolation` mean what
    they mean in a spec. `sources` says of a field where its value was read: a file, a published tag, the spec.
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
        """(key of the spec, value, source), for tables; an activation that is not known is left out."""
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
    """(tower, key, value, source) of an encoder and of the encoders inside it; empty if none reports them."""
    return [
        (name, *row)
        for name, module in encoder.named_modules()
        if isinstance(facts := getattr(module, "preprocessing", None), Preprocessing)
        for row in facts.rows()
    ]
