"""Summary of a spec's model: shapes, visual tokens and parameters, computed on the meta device without weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vlm_core.interfaces import parameter_count
from vlm_core.io.sources import Sampling
from vlm_core.model import PARTS, VLM
from vlm_core.model_folder.assemble import build
from vlm_core.spec.spec import Spec


@dataclass(frozen=True)
class PartSummary:
    """One part: its component, output shape and number of parameters."""

    part: str
    component: str
    output: str
    parameters: int


@dataclass(frozen=True)
class ModelSummary:
    """Image size (pixels), patch grid, visual tokens per image, widths D and M, vocabulary, and the parts in `rows`.

    `sampling` is that of videos, each frame of which has the tokens of an image.
    """

    image_size: tuple[int, int]
    grid: tuple[int, int]
    tokens: int
    d_in: int
    d_out: int
    vocab_size: int
    rows: list[PartSummary]
    sampling: Sampling

    @property
    def total(self) -> int:
        return sum(row.parameters for row in self.rows)


def build_on_meta(spec: Spec) -> VLM:
    """The model on the meta device, without memory for weights; raises `UserError` if the parts don't fit together."""
    with torch.device("meta"):
        return build(spec, weights=False)


def summarize(spec: Spec, model: VLM | None = None) -> ModelSummary:
    """Summarize a spec's `model` on the meta device, which is built if it is None."""
    model = build_on_meta(spec) if model is None else model
    with torch.device("meta"):
        height, width = model.encoder.image_size
        features = model.encoder(torch.empty(1, 3, height, width))
    h, w = features.shape[1:3]
    tokens = model.connector.num_tokens(h, w)
    outputs = {
        "encoder": f"{h}×{w} grid × {model.encoder.dim}",
        "connector": f"{tokens} tokens × {model.llm.dim}",
        "llm": f"{model.llm.vocab_size} logits",
    }
    rows = [
        PartSummary(p, getattr(spec, p).label(), outputs[p], parameter_count(getattr(model, p)))
        for p in PARTS
    ]
    return ModelSummary(
        (height, width),
        (h, w),
        tokens,
        model.encoder.dim,
        model.llm.dim,
        model.llm.vocab_size,
        rows,
        model.sampling,
    )
