"""Evaluation in the `train` section: held-out questions, validation loss, and benchmarks during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, SerializeAsAny, field_validator

from vlm_core.plugins.config import BenchmarkConfig, DatasetConfig, StrictModel
from vlm_core.spec.validate import component

Data = list[Annotated[SerializeAsAny[DatasetConfig], component("dataset")]]


class HeldOutQA(StrictModel):
    """Questions with answers, asked after each stage; all of `data` after the last."""

    data: Data = Field(min_length=1, description="datasets; the last question of each row is asked")
    samples: PositiveInt | None = Field(
        default=None,
        description="how many rows, at even distances, after each stage but the last; default all",
    )
    batch_size: PositiveInt = Field(default=64, description="questions at once")
    max_new_tokens: PositiveInt = Field(default=16, le=4096, description="longest answer")


class Validation(StrictModel):
    """Loss on other rows and some answers, while a stage trains; read as the stage reads its own data."""

    data: Data = Field(min_length=1, description="datasets whose rows are not for training")
    every: PositiveInt = Field(default=500, description="steps; each stage's last step always has one")
    rows: PositiveInt | Literal["all"] = Field(default=256, description="how many, at even distances")
    batch_size: PositiveInt = Field(default=16, description="rows at once")
    samples: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="rows to answer; default 4, none in a stage whose template leaves questions out",
    )
    max_new_tokens: PositiveInt = Field(default=32, le=4096, description="longest answer")


class Benchmarks(StrictModel):
    """Samples of benchmarks, asked at the end of each stage and, with `every`, while it trains."""

    renamed: ClassVar[Mapping[str, str]] = {"benchmarks": "tasks"}
    tasks: list[Annotated[SerializeAsAny[BenchmarkConfig], component("benchmark")]] = Field(
        min_length=1, description="benchmarks with their options, each once"
    )
    samples: PositiveInt | Literal["all"] = Field(
        default=200, description="about how many questions of each, whole images at even distances"
    )
    every: PositiveInt | None = Field(
        default=None, description="steps; each stage's last step always has one"
    )
    batch_size: PositiveInt = Field(default=8, description="questions at once")
    max_new_tokens: PositiveInt | None = Field(
        default=None, le=4096, description="longest answer; default: by the benchmark's protocol"
    )

    @field_validator("tasks")
    @classmethod
    def _distinct(cls, benchmarks: list[BenchmarkConfig]) -> list[BenchmarkConfig]:
        names = [config.type_name() for config in benchmarks]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]} stands there twice")
        return benchmarks
