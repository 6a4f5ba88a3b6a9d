"""A training stage in the `train` section: trained parts, data, schedule and optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from vlm_core.plugins.config import StrictModel
from vlm_core.text.template import TemplateField
from vlm_train.config.evaluation import Data
from vlm_train.config.other_trainers import OTHER_TRAINERS
from vlm_train.config.recipe import Decay, Ema, Group, Lora, Pattern, Rate

PartName = Literal["encoder", "connector", "llm"]


class Stage(StrictModel):
    """One training stage. Where the paper says "following LLaVA", defaults are those of LLaVA-1.5."""

    renamed: ClassVar[Mapping[str, str]] = {
        "trains": "trainable",
        "weights": "mix_weights",
        "counts": "samples_per_epoch",
        "warmup": "warmup_ratio",
        "lr_floor": "min_lr_ratio",
        "cooldown": "decay_ratio",
        "clip_norm": "max_grad_norm",
    }
    elsewhere: ClassVar[Mapping[str, str]] = OTHER_TRAINERS | {
        key: f"train.{key}"
        for key in ("output", "seed", "precision", "strategy", "max_length", "num_workers")
    }
    name: str = Field(pattern=r"^[\w.-]+$", max_length=40, description="letters, digits, _, . and -")
    trainable: list[PartName] = Field(min_length=1, description="parts to train; the others are frozen")
    data: Data = Field(min_length=1, description="datasets, shuffled together")
    mix_weights: list[PositiveFloat] | None = Field(
        default=None, description="relative sampling weight of each dataset"
    )
    samples_per_epoch: list[PositiveInt] | None = Field(
        default=None, description="rows of each dataset per epoch, instead of mix_weights"
    )
    group_by_length: bool = Field(
        default=False, description="batch samples of similar length, those with and without images separately"
    )
    packing: bool = Field(default=False, description="pack several samples into a sequence of max_length")
    template: TemplateField | None = Field(
        default=None, description="chat template of this stage; default: the spec's template"
    )
    loss_on: Literal["answers", "all"] = Field(
        default="answers", description="tokens with loss: those of answers, or all text"
    )
    lr: Rate | dict[PartName, Rate] = Field(description="peak learning rate, of all parts or by part")
    batch_size: PositiveInt = Field(le=2**20, description="samples per step over all devices")
    micro_batch_size: PositiveInt | Literal["auto"] | None = Field(
        default=None,
        description="samples per forward pass on a device; auto: as many as fit; default: all of its share",
    )
    epochs: PositiveFloat | None = Field(
        default=None, le=10_000, description="passes over the data; default: 1"
    )
    steps: PositiveInt | None = Field(
        default=None, le=10**9, description="optimizer steps, instead of epochs"
    )
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1, description="warmup steps as a share of all steps")
    schedule: Literal["cosine", "linear", "constant", "wsd"] = Field(
        default="cosine",
        description="learning rate after warmup; wsd (warmup-stable-decay): constant, then linear decay",
    )
    min_lr_ratio: float = Field(
        default=0.0, ge=0, lt=1, description="final learning rate as a share of the peak"
    )
    decay_ratio: float | None = Field(
        default=None, gt=0, le=1, description="decay steps of wsd as a share of all steps; default: 0.2"
    )
    weight_decay: Decay | dict[PartName, Decay] = Field(
        default=0.0, description="weight decay of matrices, of all parts or by part"
    )
    groups: list[Group] = Field(
        default=[], description="learning rate or weight decay of parameters by name pattern"
    )
    frozen: list[Pattern] = Field(
        default=[], description="name patterns of parameters to freeze in trained parts"
    )
    optimizer: Literal["adamw", "adamw-8bit"] = Field(
        default="adamw", description="adamw-8bit stores its moments in 8 bits"
    )
    max_grad_norm: PositiveFloat = Field(default=1.0, description="gradients are clipped to this norm")
    ema: Ema | None = Field(default=None, description="exponential moving average of the trained weights")
    lora: Lora | None = Field(
        default=None, description="train LoRA adapters of the language model instead of its weights"
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
                "schedule: constant has no decay: leave out min_lr_ratio, or choose another schedule"
            )
        if self.schedule == "wsd" and self.warmup_ratio + self.wsd_decay_ratio > 1:
            raise ValueError(
                f"warmup_ratio {self.warmup_ratio} and decay_ratio {self.wsd_decay_ratio} are more than all steps"
            )
        if self.lora and "llm" not in self.trainable:
            raise ValueError("lora adapts the language model: add llm to trainable, or leave lora out")
        if self.lora and self.ema and self.ema.use == "beside":
            raise ValueError("ema.use: beside is not supported with lora: set ema.use: result")
        return self

    @property
    def wsd_decay_ratio(self) -> float:
        """Decay steps of a wsd schedule as a share of all steps."""
        return 0.2 if self.decay_ratio is None else self.decay_ratio

    def rate(self, part: PartName) -> float:
        """The peak learning rate of one part."""
        return self.lr[part] if isinstance(self.lr, dict) else self.lr

    def decay(self, part: PartName) -> float:
        """The weight decay of one part's matrices."""
        return self.weight_decay[part] if isinstance(self.weight_decay, dict) else self.weight_decay

    def trained_parts(self) -> set[PartName]:
        """Parts whose own weights this stage trains; with LoRA, the language model is not one of them."""
        return {part for part in self.trainable if not (part == "llm" and self.lora)}

    def rows(self) -> int:
        """The number of rows of all datasets; reads the data."""
        return sum(len(source.rows()) for source in self.data)
