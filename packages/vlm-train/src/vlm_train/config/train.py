"""The `train` section: stages in order, each with its parts, data and recipe."""

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
from vlm_core.text.template import TemplateField
from vlm_train.config.evaluation import Benchmarks, Data, HeldOutQA, Validation
from vlm_train.config.recipe import Decay, Ema, FeatureCache, Group, Lora, Pattern, Rate

PartName = Literal["encoder", "connector", "llm"]
_INSTEAD_OF_DEEPSPEED = {
    "zero1": "ddp, or fsdp2, which also shards gradients and weights",
    "zero2": "fsdp2 and reshard_after_forward: false",
    "zero3": "fsdp2",
}
Budget = NonNegativeInt | Annotated[float, Field(ge=0, lt=1)]


class Stage(StrictModel):
    """One stage. Defaults are LLaVA-1.5's where the paper says "following LLaVA"."""

    renamed: ClassVar[Mapping[str, str]] = {
        "trains": "trainable",
        "weights": "mix_weights",
        "counts": "samples_per_epoch",
        "warmup": "warmup_ratio",
        "lr_floor": "min_lr_ratio",
        "cooldown": "decay_ratio",
        "clip_norm": "max_grad_norm",
    }
    name: str = Field(pattern=r"^[\w.-]+$", max_length=40, description="letters, digits, _, . and -")
    trainable: list[PartName] = Field(min_length=1, description="the parts that learn; the rest is frozen")
    data: Data = Field(min_length=1, description="datasets, shuffled together")
    mix_weights: list[PositiveFloat] | None = Field(
        default=None, description="share of each of data in an epoch"
    )
    samples_per_epoch: list[PositiveInt] | None = Field(
        default=None, description="rows of each of data in an epoch"
    )
    group_by_length: bool = Field(default=False, description="batches of like length, with or without images")
    packing: bool = Field(default=False, description="several samples in a row of max_length")
    template: TemplateField | None = Field(default=None, description="instead of the spec's own")
    loss_on: Literal["answers", "all"] = Field(
        default="answers", description="what the model learns to say: answers, or all text"
    )
    lr: Rate | dict[PartName, Rate] = Field(description="peak learning rate, of all parts or by part")
    batch_size: PositiveInt = Field(le=2**20, description="samples a step, over all devices")
    micro_batch_size: PositiveInt | None = Field(default=None, description="samples at once on a device")
    epochs: PositiveFloat | None = Field(
        default=None, le=10_000, description="how often the data are read; default 1"
    )
    steps: PositiveInt | None = Field(default=None, le=10**9, description="how many steps, instead of epochs")
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1, description="share of the steps")
    schedule: Literal["cosine", "linear", "constant", "wsd"] = Field(
        default="cosine", description="the learning rate after warmup; wsd is constant, then falling linearly"
    )
    min_lr_ratio: float = Field(
        default=0.0, ge=0, lt=1, description="share of the peak that the rate falls to"
    )
    decay_ratio: float | None = Field(
        default=None, gt=0, le=1, description="share of the steps in which wsd falls"
    )
    weight_decay: Decay | dict[PartName, Decay] = Field(
        default=0.0, description="of matrices, of all parts or by part"
    )
    groups: list[Group] = Field(default=[], description="parameters with a rate or decay of their own")
    frozen: list[Pattern] = Field(default=[], description="parameters of the trained parts that stand still")
    optimizer: Literal["adamw", "adamw-8bit"] = Field(
        default="adamw", description="adamw-8bit keeps its moments in a byte each"
    )
    max_grad_norm: PositiveFloat = Field(default=1.0, description="largest norm of the gradient")
    ema: Ema | None = Field(default=None, description="an average of the trained weights")
    lora: Lora | None = Field(
        default=None, description="adapters on the language model in place of its own weights"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give epochs or steps, not both")
        if self.mix_weights is not None and self.samples_per_epoch is not None:
            raise ValueError("give mix_weights or samples_per_epoch, not both")
        mix = self.mix_weights or self.samples_per_epoch
        if mix is not None and len(mix) != len(self.data):
            raise ValueError(
                f"{len(mix)} mix_weights or samples_per_epoch for {len(self.data)} datasets in data"
            )
        if len(set(self.trainable)) < len(self.trainable):
            raise ValueError(f"trainable names a part twice: {', '.join(self.trainable)}")
        for key, value in (("lr", self.lr), ("weight_decay", self.weight_decay)):
            if isinstance(value, dict) and set(value) != set(self.trainable):
                raise ValueError(
                    f"{key} names {sorted(value)}, but this stage trains {sorted(self.trainable)}"
                )
        return self

    @model_validator(mode="after")
    def _recipe(self) -> Stage:
        if self.decay_ratio is not None and self.schedule != "wsd":
            raise ValueError(f"decay_ratio belongs to schedule: wsd, not {self.schedule}")
        if self.min_lr_ratio and self.schedule == "constant":
            raise ValueError(
                "schedule: constant never falls: leave out min_lr_ratio, or choose another schedule"
            )
        if self.schedule == "wsd" and self.warmup_ratio + self.wsd_decay_ratio > 1:
            raise ValueError(
                f"warmup_ratio {self.warmup_ratio} and decay_ratio {self.wsd_decay_ratio} are more than all steps"
            )
        if self.lora and "llm" not in self.trainable:
            raise ValueError("lora adapts the language model: add llm to trainable, or leave lora out")
        if self.lora and self.ema and self.ema.use == "beside":
            raise ValueError("with lora the average can't stand beside the weights: set ema.use: result")
        return self

    @property
    def wsd_decay_ratio(self) -> float:
        """Share of the steps in which a wsd schedule falls."""
        return 0.2 if self.decay_ratio is None else self.decay_ratio

    def rate(self, part: PartName) -> float:
        """The peak learning rate of one part."""
        return self.lr[part] if isinstance(self.lr, dict) else self.lr

    def decay(self, part: PartName) -> float:
        """The weight decay of one part's matrices."""
        return self.weight_decay[part] if isinstance(self.weight_decay, dict) else self.weight_decay

    def trained_parts(self) -> set[PartName]:
        """Parts whose own weights this stage trains: adapters leave the language model's as they are."""
        return {part for part in self.trainable if not (part == "llm" and self.lora)}

    def rows(self) -> int:
        """How many samples an epoch has; reads the data."""
        return sum(len(source.rows()) for source in self.data)


class TrainConfig(StrictModel):
    """Everything `vlm-train run` needs besides the parts."""

    renamed: ClassVar[Mapping[str, str]] = {
        "workers": "num_workers",
        "evaluation": "held_out_qa",
        "evals": "benchmarks",
    }
    output: LocalPath = Field(min_length=1, description="folder of the run")
    seed: int = Field(default=0, ge=0, lt=2**31, description="of initial values and of the order of rows")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="number format of the computation: bf16 is autocast"
    )
    strategy: Literal["auto", "ddp", "fsdp2"] = Field(
        default="auto", description="how several processes share the model; auto is ddp"
    )
    reshard_after_forward: bool = Field(
        default=True, description="fsdp2 only; false keeps weights gathered from the forward to the backward"
    )
    activation_checkpointing: bool = Field(
        default=False, description="keep what enters each layer only, and compute it again in the backward"
    )
    max_length: PositiveInt = Field(default=2048, le=2**20, description="tokens a sample, image included")
    on_too_long: Literal["drop", "error"] = Field(
        default="drop",
        description="what to do with a sample that can't be cut to max_length: leave it out and count it, or stop",
    )
    on_non_finite: Literal["error", "skip"] = Field(
        default="error",
        description="what to do when loss or gradient is not finite: stop, or leave the step out and count it",
    )
    non_finite_budget: PositiveInt = Field(
        default=10, description="steps that on_non_finite: skip may leave out, over the whole run"
    )
    on_bad_sample: Literal["error", "skip"] = Field(
        default="error",
        description="what to do with a row that can't be used: stop, or leave it out and count it",
    )
    bad_sample_budget: Budget = Field(default=0.01, description="rows, or share of the rows, of a stage")
    num_workers: int = Field(default=0, ge=0, le=256, description="processes that read images")
    checkpoint_every: PositiveInt = Field(
        default=500, description="steps between checkpoints; each stage's last step always has one"
    )
    keep_checkpoints: int = Field(default=2, ge=2, le=1000, description="how many of the newest to keep")
    feature_cache: FeatureCache | None = Field(
        default=None, description="compute each image's features once, in stages that don't train the encoder"
    )
    timeout: PositiveFloat = Field(default=1800.0, description="seconds without a step that end a run")
    stages: list[Stage] = Field(
        min_length=1, description="one after the other, each from the model that the one before left"
    )
    held_out_qa: HeldOutQA | None = Field(
        default=None, description="questions with answers, asked after each stage"
    )
    validation: Validation | None = Field(
        default=None, description="loss and answers on rows that are not for training, while a stage trains"
    )
    benchmarks: Benchmarks | None = Field(
        default=None, description="samples of benchmarks, while a stage trains"
    )
    trackers: list[Literal["tensorboard", "wandb"]] = Field(
        default=[], description="besides metrics.jsonl; none by default"
    )

    @model_validator(mode="after")
    def _shardable(self) -> TrainConfig:
        small = [stage.name for stage in self.stages if stage.optimizer == "adamw-8bit"]
        if self.strategy == "fsdp2" and small:
            raise ValueError(
                f"stage {small[0]}: adamw-8bit can't be sharded: set optimizer: adamw, whose moments fsdp2 "
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
    def _uses_its_features(self) -> TrainConfig:
        if self.feature_cache and all("encoder" in stage.trainable for stage in self.stages):
            raise ValueError("feature_cache is for a frozen encoder, and every stage trains it: leave it out")
        return self

    def trained_parts(self) -> set[str]:
        """Parts whose own weights a stage trains."""
        return {part for stage in self.stages for part in stage.trained_parts()}

    def feature_dtype(self, stage: Stage) -> Literal["float32", "bfloat16", "float16"] | None:
        """What a stage's features are kept in; None if it has none, as one that trains the encoder."""
        if self.feature_cache is None or "encoder" in stage.trainable:
            return None
        return self.feature_cache.dtype or ("bfloat16" if self.precision == "bf16" else "float32")

    def stage_facts(self) -> list[StageFacts]:
        """What `vlm-assemble --check` needs to say what the stages cost."""
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
            )
            for stage in self.stages
        ]
