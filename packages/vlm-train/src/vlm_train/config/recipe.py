"""What a stage may add to its recipe: groups by pattern, averaged weights, adapters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from vlm_core.io.paths import LocalPath
from vlm_core.plugins.config import StrictModel

Rate = Annotated[float, Field(gt=0, le=10)]
Decay = Annotated[float, Field(ge=0, le=10)]
Pattern = Annotated[str, Field(min_length=1, max_length=200)]
"""Parameter names as in `llm.backbone.layers.0.norm.weight`; `*` stands for anything, dots included."""


class Group(StrictModel):
    """Parameters that `match` names get a rate or decay of their own; the first group that fits counts."""

    match: Pattern = Field(description="pattern of parameter names")
    lr: Rate | None = Field(default=None, description="peak learning rate of these parameters")
    weight_decay: Decay | None = Field(default=None, description="of the matrices among them")

    @model_validator(mode="after")
    def _says_something(self) -> Group:
        if self.lr is None and self.weight_decay is None:
            raise ValueError("a group gives lr, weight_decay or both; to freeze parameters use `frozen`")
        return self


class Ema(StrictModel):
    """An exponential moving average of the trained weights."""

    decay: float = Field(default=0.999, gt=0, lt=1, description="share of the average that a step keeps")
    use: Literal["beside", "result"] = Field(
        default="beside",
        description="evaluate and save it beside the weights, or let it be the stage's result",
    )


class Lora(StrictModel):
    """Low-rank adapters on linear layers of the language model, merged into it after the stage."""

    targets: list[Pattern] = Field(min_length=1, description="patterns of module names")
    rank: PositiveInt = Field(default=16, le=4096, description="of the update's matrices")
    alpha: PositiveFloat = Field(default=32.0, description="the update is scaled by alpha / rank")
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="share of a layer's inputs that an adapter does not see"
    )


class FeatureCache(StrictModel):
    """Where the features of a frozen encoder are kept, for all stages and other runs."""

    path: LocalPath = Field(min_length=1, description="a folder, which several runs may share")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="default: float32, or bfloat16 with precision: bf16"
    )
    limit_gb: PositiveFloat | None = Field(
        default=None, description="what the whole folder may hold, in 10^9 bytes; default: what the disk has"
    )
