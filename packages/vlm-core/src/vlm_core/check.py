"""The arithmetic of a spec: shapes, tokens, parameters and bytes, on the meta device, before any weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vlm_core.assemble import build
from vlm_core.interfaces import parameter_count
from vlm_core.model import PARTS
from vlm_core.spec import Spec


@dataclass(frozen=True)
class Part:
    """One row of the table."""

    part: str
    component: str
    output: str
    parameters: int


@dataclass(frozen=True)
class Arithmetic:
    """What a spec amounts to. `tokens` visual tokens an image; `parameters` by part."""

    image_size: tuple[int, int]
    grid: tuple[int, int]
    tokens: int
    d_in: int
    d_out: int
    vocab_size: int
    rows: list[Part]

    @property
    def total(self) -> int:
        return sum(row.parameters for row in self.rows)


def check(spec: Spec) -> Arithmetic:
    """Build on the meta device and push shapes through; raises `UserError` if the parts don't fit."""
    with torch.device("meta"):
        model = build(spec, weights=False)
        height, width = model.encoder.image_size
        features = model.encoder(torch.empty(1, 3, height, width))
    h, w = features.shape[1:3]
    tokens = model.connector.num_tokens(h, w)
    outputs = {
        "encoder": f"{h}×{w} grid × {model.encoder.dim}",
        "connector": f"{tokens} tokens × {model.llm.dim}",
        "llm": f"{model.llm.vocab_size} logits",
    }
    rows = [Part(p, getattr(spec, p).label(), outputs[p], parameter_count(getattr(model, p))) for p in PARTS]
    return Arithmetic(
        (height, width), (h, w), tokens, model.encoder.dim, model.llm.dim, model.llm.vocab_size, rows
    )
