"""Evaluation in the `train` section: held-out questions, validation loss, and benchmarks during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, SerializeAsAny, field_validator

from vlm_core.plugins.config import BenchmarkConfig, DatasetConfig, StrictModel
from vlm_core.spec.validate import component

Data = list[Annotated[SerializeAsAny[DatasetConfig], component("dataset")]]


class HeldOutQA(StrictModel):
    """Accuracy on questions with answers after each stage; after the last stage on all rows of `data`."""

    data: Data = Field(min_length=1, description="datasets; the last question of each row is asked")
    samples: PositiveInt | None = Field(
        default=None,
        description="evenly spaced rows to ask after each stage but the last; default: all",
    )
    baselines: list[Literal["images reordered", "last image only", "question alone"]] = Field(
        default=[],
        description="further controls after the last stage: the row's images in another order, its last image alone, "
        "no image",
    )
    batch_size: PositiveInt = Field(default=64, description="questions per batch")
    max_new_tokens: PositiveInt = Field(default=16, le=4096, description="longest answer in tokens")


class Validation(StrictModel):
    """Validation loss and sample answers during a stage, with the stage's own template and loss mask."""

    data: Data = Field(min_length=1, description="datasets whose rows are not trained on")
    every: PositiveInt = Field(default=500, description="steps between validations; the last step has one")
    rows: PositiveInt | Literal["all"] = Field(default=256, description="evenly spaced rows for the loss")
    batch_size: PositiveInt = Field(default=16, description="rows per batch")
    samples: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="rows to answer; default: 4, or 0 in a stage whose template has no question",
    )
    accuracy_rows: PositiveInt | Literal["all"] | None = Field(
        default=None,
        description="evenly spaced ones of these rows, whose answers are scored as in held_out_qa; default: none",
    )
    max_new_tokens: PositiveInt = Field(default=32, le=4096, description="longest answer in tokens")


class Benchmarks(StrictModel):
    """Evaluation on samples of benchmarks at the end of each stage, or of `stages`, and with `every` during it."""

    renamed: ClassVar[Mapping[str, str]] = {"benchmarks": "tasks"}
    tasks: list[Annotated[SerializeAsAny[BenchmarkConfig], component("benchmark")]] = Field(
        min_length=1, description="benchmarks with their options, each at most once"
    )
    samples: PositiveInt | Literal["all"] = Field(
        default=200, description="approximate questions per benchmark: all questions of evenly spaced images"
    )
    every: PositiveInt | None = Field(
        default=None, description="steps between evaluations; the last step has one"
    )
    stages: list[str] | None = Field(
        default=None, min_length=1, description="names of the stages to evaluate in; default: all"
    )
    batch_size: PositiveInt = Field(default=8, description="questions per batch")
    max_new_tokens: PositiveInt | None = Field(
        default=None, le=4096, description="longest answer in tokens; default: the benchmark's protocol"
    )
    baselines: bool = Field(
        default=False,
        description="ask each question also without its image and about another one: three times the questions",
    )

    @field_validator("tasks")
    @classmethod
    def _distinct(cls, benchmarks: list[BenchmarkConfig]) -> list[BenchmarkConfig]:
        names = [config.type_name() for config in benchmarks]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{repeated[0]} is listed twice")
        return benchmarks
