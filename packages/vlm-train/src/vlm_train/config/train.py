"""The `train` section of a spec: settings of the run, its stages and its evaluations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from vlm_core.diagnose.costs.stages import StageFacts
from vlm_core.errors import choices
from vlm_core.io.paths import LocalPath
from vlm_core.plugins.config import StrictModel
from vlm_train.config.evaluation import Benchmarks, HeldOutQA, Validation
from vlm_train.config.other_trainers import OTHER_TRAINERS
from vlm_train.config.recipe import FeatureCache
from vlm_train.config.stage import Stage as Stage

_INSTEAD_OF_DEEPSPEED = {
    "zero1": "ddp, or fsdp2, which also shards gradients and weights",
    "zero2": "fsdp2 and reshard_after_forward: false",
    "zero3": "fsdp2",
}
Budget = NonNegativeInt | Annotated[float, Field(ge=0, lt=1)]


class TrainConfig(StrictModel):
    """The `train` section: everything that `vlm-train run` needs besides the model."""

    renamed: ClassVar[Mapping[str, str]] = {
        "workers": "num_workers",
        "evaluation": "held_out_qa",
        "evals": "benchmarks",
    }
    elsewhere: ClassVar[Mapping[str, str]] = OTHER_TRAINERS | {
        key: f"train.stages[].{key}" for key in Stage.model_fields
    }
    step_profiler: ClassVar[str] = "vlm_train.profiling.stage_profiles:profile_stages"
    output: LocalPath = Field(min_length=1, description="run folder")
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="seed of initial weights and of the order of rows"
    )
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="bf16: autocast with fp32 weights")
    strategy: Literal["auto", "ddp", "fsdp2"] = Field(
        default="auto",
        description="distributed strategy; auto: ddp where a copy of the model takes at most half of a GPU, else fsdp2",
    )
    reshard_after_forward: bool = Field(
        default=True,
        description="fsdp2 only; false keeps weights gathered from forward to backward, as in ZeRO-2",
    )
    activation_checkpointing: bool = Field(
        default=False, description="recompute the activations of each layer in the backward pass"
    )
    cuda_graphs: bool = Field(
        default=True,
        description="on one GPU, repeat small micro-batches as CUDA graphs, padded to a few shapes",
    )
    max_length: PositiveInt = Field(
        default=2048, le=2**20, description="tokens per sample, image tokens included"
    )
    on_too_long: Literal["drop", "error"] = Field(
        default="drop",
        description="for a sample that can't be truncated to max_length: drop and count it, or stop",
    )
    on_non_finite: Literal["error", "skip"] = Field(
        default="error",
        description="for a NaN or infinite loss or gradient: stop, or skip and count the step",
    )
    non_finite_budget: PositiveInt = Field(
        default=10, description="steps per run that on_non_finite: skip may skip"
    )
    on_bad_sample: Literal["error", "skip"] = Field(
        default="error", description="for a row that can't be used: stop, or drop and count it"
    )
    bad_sample_budget: Budget = Field(
        default=0.01, description="rows per stage that on_bad_sample: skip may drop, as a number or a share"
    )
    num_workers: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] = Field(
        default="auto",
        description="data-loading processes per training process; auto: up to 8 on a GPU, none on a CPU",
    )
    checkpoint_every: PositiveInt = Field(
        default=500, description="steps between checkpoints; a stage's last step always has one"
    )
    keep_checkpoints: int = Field(
        default=2, ge=2, le=1000, description="number of newest checkpoints to keep"
    )
    feature_cache: FeatureCache | None = Field(
        default=None, description="cache of image features, for stages with a frozen encoder"
    )
    timeout: PositiveFloat = Field(
        default=1800.0, description="seconds without a step until the run is ended"
    )
    stages: list[Stage] = Field(
        min_length=1, description="training stages in order, each starting from the previous stage's model"
    )
    held_out_qa: HeldOutQA | None = Field(
        default=None, description="accuracy on questions with answers after each stage"
    )
    validation: Validation | None = Field(
        default=None, description="loss and sample answers on validation rows during a stage"
    )
    benchmarks: Benchmarks | None = Field(
        default=None, description="scores on samples of benchmarks during training"
    )
    trackers: list[Literal["tensorboard", "wandb"]] = Field(
        default=[], description="experiment trackers in addition to metrics.jsonl; default: none"
    )

    @model_validator(mode="after")
    def _shardable(self) -> TrainConfig:
        eight_bit = [stage.name for stage in self.stages if stage.optimizer == "adamw-8bit"]
        if self.strategy == "fsdp2" and eight_bit:
            raise ValueError(
                f"stage {eight_bit[0]}: adamw-8bit can't be sharded: set optimizer: adamw, whose moments fsdp2 "
                "shards, or strategy: ddp"
            )
        if self.strategy != "fsdp2" and not self.reshard_after_forward:
            raise ValueError(
                f"reshard_after_forward: false belongs to strategy: fsdp2, not {self.strategy}: leave it out"
            )
        return self

    @field_validator("strategy", mode="before")
    @classmethod
    def _not_deepspeed(cls, strategy: object) -> object:
        text = str(strategy).lower()
        name = re.sub(r"deepspeed|stage|[\W_]", "", text)  # as in deepspeed_zero_stage_2
        if "deepspeed" in text or name in _INSTEAD_OF_DEEPSPEED:
            instead = _INSTEAD_OF_DEEPSPEED.get(name, "fsdp2")
            raise ValueError(f"{text!r:.40} means DeepSpeed, which is not supported: set strategy: {instead}")
        return strategy

    @field_validator("stages")
    @classmethod
    def _distinct(cls, stages: list[Stage]) -> list[Stage]:
        names = [stage.name for stage in stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two stages are named {name!r}{choices(name, set(names))}")
        return stages

    @model_validator(mode="after")
    def _evaluates_its_stages(self) -> TrainConfig:
        names = [stage.name for stage in self.stages]
        for name in (self.benchmarks and self.benchmarks.stages) or ():
            if name not in names:
                raise ValueError(f"benchmarks.stages: no stage is named {name!r}{choices(name, names)}")
        return self

    @model_validator(mode="after")
    def _uses_its_features(self) -> TrainConfig:
        if self.feature_cache and all("encoder" in stage.trainable for stage in self.stages):
            raise ValueError("feature_cache is for a frozen encoder, and every stage trains it: leave it out")
        return self

    def trained_parts(self) -> set[str]:
        """Parts whose own weights a stage trains."""
        return {part for stage in self.stages for part in stage.trained_parts()}

    def feature_dtype(self, stage: Stage) -> Literal["float32", "bfloat16", "float16"] | None:
        """The dtype of a stage's cached features; None without a cache or if the stage trains the encoder."""
        if self.feature_cache is None or "encoder" in stage.trainable:
            return None
        return self.feature_cache.dtype or ("bfloat16" if self.precision == "bf16" else "float32")

    def cost_strategy(self) -> str:
        """The strategy by its name in `vlm_core.diagnose.costs`, or `auto`; 8-bit moments can't be sharded."""
        if self.strategy == "fsdp2":
            return "FSDP2" if self.reshard_after_forward else "FSDP2-gathered"
        eight_bit = any(stage.optimizer == "adamw-8bit" for stage in self.stages)
        return "DDP" if self.strategy == "ddp" or eight_bit else "auto"

    def stage_facts(self) -> list[StageFacts]:
        """What `vlm-assemble --check` needs to compute the cost of the stages."""
        return [
            StageFacts(
                name=stage.name,
                trainable=tuple(stage.trainable),
                batch_size=stage.batch_size,
                micro_batch_size=stage.micro_batch_size,
                max_length=self.max_length,
                precision=self.precision,
                epochs=stage.epochs or 1.0,
                steps=stage.steps,
                rows=stage.rows,
                features=self.feature_dtype(stage),
                strategy=self.cost_strategy(),
                checkpointing=self.activation_checkpointing,
            )
            for stage in self.stages
        ]
