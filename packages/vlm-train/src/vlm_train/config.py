"""The `train` section: stages in order, each with its parts, data and recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, SerializeAsAny, field_validator, model_validator

from vlm_core.config import DatasetConfig, StrictModel
from vlm_core.errors import choices
from vlm_core.template import TemplateField
from vlm_core.validate import component

PartName = Literal["encoder", "connector", "llm"]
Data = list[Annotated[SerializeAsAny[DatasetConfig], component("dataset")]]
Rate = Annotated[float, Field(gt=0, le=10)]


class Stage(StrictModel):
    """One stage. Defaults are LLaVA-1.5's where the paper says "following LLaVA"."""

    name: str = Field(pattern=r"^[\w.-]+$", max_length=40)
    trains: list[PartName] = Field(min_length=1)
    data: Data = Field(min_length=1)
    template: TemplateField | None = Field(default=None, description="instead of the spec's own")
    loss_on: Literal["answers", "all"] = "answers"
    lr: Rate | dict[PartName, Rate]
    batch_size: PositiveInt = Field(le=2**20, description="samples a step, over all devices")
    micro_batch_size: PositiveInt | None = Field(default=None, description="samples at once on a device")
    epochs: PositiveFloat | None = Field(default=None, le=10_000)
    steps: PositiveInt | None = Field(default=None, le=10**9)
    warmup: float = Field(default=0.03, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    clip_norm: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give epochs or steps, not both")
        if len(set(self.trains)) < len(self.trains):
            raise ValueError(f"trains names a part twice: {', '.join(self.trains)}")
        if isinstance(self.lr, dict) and set(self.lr) != set(self.trains):
            raise ValueError(f"lr names {sorted(self.lr)}, but this stage trains {sorted(self.trains)}")
        return self

    def rate(self, part: PartName) -> float:
        """The peak learning rate of one part."""
        return self.lr[part] if isinstance(self.lr, dict) else self.lr


class Evaluation(StrictModel):
    """Held-out questions, asked after each stage; all of `data` after the last."""

    data: Data = Field(min_length=1)
    samples: PositiveInt | None = Field(
        default=None, description="how many after earlier stages; default all"
    )
    batch_size: PositiveInt = 64
    max_new_tokens: PositiveInt = Field(default=16, le=4096)


class TrainConfig(StrictModel):
    """Everything `vlm-train run` needs besides the parts."""

    output: str = Field(min_length=1, description="folder of the run")
    seed: int = Field(default=0, ge=0, lt=2**31)
    precision: Literal["fp32", "bf16"] = "fp32"
    max_length: PositiveInt = Field(default=2048, le=2**20, description="tokens a sample, image included")
    on_too_long: Literal["drop", "error"] = "drop"
    workers: int = Field(default=0, ge=0, le=256)
    checkpoint_every: PositiveInt = 500
    keep_checkpoints: int = Field(default=2, ge=2, le=1000)
    stages: list[Stage] = Field(min_length=1)
    evaluation: Evaluation | None = None

    @field_validator("stages")
    @classmethod
    def _distinct(cls, stages: list[Stage]) -> list[Stage]:
        names = [stage.name for stage in stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two stages are named {name!r}{choices(name, set(names))}")
        return stages
