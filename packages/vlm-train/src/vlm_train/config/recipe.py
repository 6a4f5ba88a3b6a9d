"""Options of a stage's recipe: parameter groups, averaged weights (EMA), LoRA, the feature cache."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from vlm_core.io.paths import LocalPath
from vlm_core.plugins.config import StrictModel

Rate = Annotated[float, Field(gt=0, le=10)]
Decay = Annotated[float, Field(ge=0, le=10)]
Pattern = Annotated[str, Field(min_length=1, max_length=200)]
"""Matches parameter names such as `llm.backbone.layers.0.norm.weight`; `*` matches any text, dots included."""


class Group(StrictModel):
    """Learning rate or weight decay of the parameters that `match`; the first matching group counts."""

    match: Pattern = Field(description="pattern of parameter names")
    lr: Rate | None = Field(default=None, description="peak learning rate of these parameters")
    weight_decay: Decay | None = Field(default=None, description="weight decay of the matrices among them")

    @model_validator(mode="after")
    def _not_empty(self) -> Group:
        if self.lr is None and self.weight_decay is None:
            raise ValueError("a group gives lr, weight_decay or both; to freeze parameters use `frozen`")
        return self


class Ema(StrictModel):
    """An exponential moving average of the trained weights."""

    decay: float = Field(
        default=0.999, gt=0, lt=1, description="average = decay * average + (1 - decay) * weights"
    )
    use: Literal["beside", "result"] = Field(
        default="beside",
        description="beside: evaluate and save it in addition to the weights; result: it replaces the weights",
    )


class Lora(StrictModel):
    """Low-rank adapters on linear layers of the language model, merged into it after the stage."""

    targets: list[Pattern] = Field(min_length=1, description="patterns of module names")
    rank: PositiveInt = Field(default=16, le=4096, description="rank of the update")
    alpha: PositiveFloat = Field(default=32.0, description="the update is scaled by alpha / rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout on the inputs of the adapters")


class FeatureCache(StrictModel):
    """Cache of the features of a frozen encoder, shared by stages and runs."""

    path: LocalPath = Field(min_length=1, description="folder of the cache; several runs may share it")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None,
        description="dtype of stored features; default: bfloat16 with precision: bf16, else float32",
    )
    limit_gb: PositiveFloat | None = Field(
        default=None, description="largest size of the folder in 10^9 bytes; default: free disk space"
    )
