"""Configs of the encoders. Each imports its library only in `build`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, FiniteFloat, PositiveInt, SerializeAsAny, field_validator, model_validator

from vlm_core.errors import UserError, shown
from vlm_core.io.paths import LocalPath
from vlm_core.plugins.config import Download, EncoderConfig, FactoryCall, WeightsSource, random_values
from vlm_core.plugins.hub import FromHub, source_of
from vlm_core.plugins.layer_counts import check_layers
from vlm_core.spec.validate import component

if TYPE_CHECKING:
    from vlm_core.interfaces import Encoder

Fit = Literal["resize", "pad", "crop"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]
Scalar = int | float | bool | str
Colour = Annotated[list[Annotated[FiniteFloat, Field(ge=-1, le=1)]], Field(min_length=3, max_length=3)]
Positive3 = Annotated[list[Annotated[FiniteFloat, Field(gt=0)]], Field(min_length=3, max_length=3)]
MAX_TOWERS, MAX_ARGUMENT = 16, 2**20


def _need(module: str, extra: str) -> None:
    """Import a library; raise `UserError` with the command that installs it if it is missing."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UserError(
            f"this encoder needs {module}, which is not installed; pip install 'vlm-encoders[{extra}]'"
        ) from None


class _TowerConfig(EncoderConfig):
    """Keys of all encoders of this package: model, layer, and those that override configs of the weights."""

    renamed: ClassVar[Mapping[str, str]] = {"fit": "resize_mode"}
    model: LocalPath = Field(min_length=1)
    layer: int | None = Field(
        default=None,
        description="block whose output is taken, counted from 0 or, if negative, from the end; "
        "by default the penultimate block of a Transformer and the last feature map of a CNN",
    )
    image_size: PositiveInt | None = Field(
        default=None,
        le=8192,
        description="side of the square that images are resized to; default: the model's",
    )
    resize_mode: Fit | None = Field(
        default=None,
        description="resize: distort to the square; pad: centre on a square of the mean colour; "
        "crop: keep the centre square. Default: from the configs of the weights, else resize",
    )
    crop_pct: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="with crop, the share of the centre square's side that is kept; default: from the configs of the "
        "weights, else 1",
    )
    interpolation: Interpolation | None = Field(
        default=None, description="Pillow's filter for resizing; default: from the configs of the weights"
    )
    mean: Colour | None = Field(
        default=None,
        description="subtracted from R, G, B in [0, 1]; default: from the configs of the weights",
    )
    std: Positive3 | None = Field(
        default=None,
        description="divides R, G, B after mean is subtracted; default: from the configs of the weights",
    )
    activation: Activation | None = Field(
        default=None,
        description="the GELU that the weights were trained with; default: from the configs of the weights",
    )

    @model_validator(mode="after")
    def _crop_only(self) -> Self:
        if self.crop_pct is not None and self.resize_mode in ("resize", "pad"):
            raise ValueError(f"crop_pct belongs to resize_mode: crop, not to resize_mode: {self.resize_mode}")
        return self

    def label(self) -> str:
        return f"{self.type_name()} {self.model}"

    @property
    def _is_repository(self) -> bool:
        """Whether `model` is a repository or a folder rather than a name of the library's."""
        return self.model.partition(":")[0] in ("hf-hub", "local-dir")

    def _arguments(self) -> dict[str, Any]:
        """Arguments that the build functions of all towers take."""
        return self.model_dump(include=_TowerConfig.model_fields.keys() - EncoderConfig.model_fields.keys())

    def _factory_call(self, function: str, needs: tuple[str, ...] = (), **more: Any) -> FactoryCall:
        return FactoryCall(f"vlm_encoders.towers.{function}", self._arguments() | more, needs)


class TimmConfig(_TowerConfig):
    """Any timm image model, Transformer or CNN."""

    type: Literal["timm"] = "timm"
    model: LocalPath = Field(
        min_length=1, description="a model name of timm, hf-hub:<repository> or local-dir:<folder>"
    )
    pretrained: bool | None = Field(
        default=None,
        description="true: the weights that timm publishes, or those of the repository or folder; false: random "
        "values, the default for a model name of timm",
    )
    weights: LocalPath | None = Field(
        default=None,
        description="a .safetensors or .pth file or a folder with one; python:<package>/<path> is a file in an "
        "installed package",
    )
    match: Literal["names", "order"] = Field(
        default="names", description="pair the file's tensors with the model's by name or by position"
    )
    model_args: dict[str, Scalar | Annotated[list[Scalar], Field(max_length=1000)]] = Field(
        default_factory=dict, description="further arguments of the tower, as timm.create_model takes them"
    )

    @field_validator("model_args")
    @classmethod
    def _bounded(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """Bound numbers: libraries build lists of that length."""
        for name, value in arguments.items():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, int | float) and abs(item) > MAX_ARGUMENT:
                    raise ValueError(f"{name}: {shown(item)} is beyond {MAX_ARGUMENT}")
        check_layers(arguments, "model_args")
        return arguments

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.pretrained and self.weights is not None:
            raise ValueError("pretrained and weights both name a source of weights; keep one")
        if self._is_repository and self.pretrained is None and self.weights is None:
            raise ValueError(
                f"model: {self.model} is ambiguous; set pretrained: true for its weights, or pretrained: false for "
                "its architecture with random values"
            )
        return self

    def weights_source(self) -> WeightsSource:
        if self.weights is not None:
            return WeightsSource(self.weights)
        if self.pretrained:
            return WeightsSource(
                self.model if self._is_repository else f"timm's published weights of {self.model}"
            )
        return random_values("pretrained: true or weights: FILE")

    def build(self, *, weights: bool = True, assets: Path | None = None) -> Encoder:
        _need("timm", "timm")
        from vlm_encoders.towers.timm_tower import build_timm

        return build_timm(
            **self._arguments(),
            model_args=self.model_args,
            pretrained=bool(self.pretrained),
            weights=self.weights,
            match=self.match,
            load=weights,
            assets=assets,
        )

    def downloads(self) -> list[Download]:
        if not self.pretrained:
            return []
        _need("timm", "timm")
        from vlm_encoders.weights.downloads import of_timm

        return of_timm(self.model)

    def factory_call(self) -> FactoryCall:
        return self._factory_call("timm_tower:build_timm", ("timm",), model_args=self.model_args)


class OpenClipConfig(_TowerConfig):
    """The image tower of an open_clip model; the text tower is never built."""

    type: Literal["open-clip"] = "open-clip"
    model: LocalPath = Field(
        min_length=1, description="a model name of open_clip, hf-hub:<repository> or local-dir:<folder>"
    )
    pretrained: LocalPath | None = Field(
        default=None,
        description="a tag of open_clip, or a local file or folder of an open_clip model; "
        "hf-hub:… and local-dir:… have weights already",
    )

    def build(self, *, weights: bool = True, assets: Path | None = None) -> Encoder:
        _need("open_clip", "open-clip")
        from vlm_encoders.towers.open_clip_tower import build_open_clip

        return build_open_clip(
            **self._arguments(),
            pretrained=self.pretrained,
            weights=weights,
            assets=assets,
        )

    def weights_source(self) -> WeightsSource:
        if self._is_repository:
            return WeightsSource(self.pretrained or self.model)
        if self.pretrained is None:
            return random_values("pretrained: TAG, FILE or FOLDER")
        if Path(self.pretrained).exists():
            return WeightsSource(self.pretrained)
        return WeightsSource(f"open_clip's published weights of {self.model}, tag {self.pretrained}")

    def downloads(self) -> list[Download]:
        _need("open_clip", "open-clip")
        from vlm_encoders.weights.downloads import of_open_clip

        return of_open_clip(self.model, self.pretrained)

    def factory_call(self) -> FactoryCall:
        return self._factory_call("open_clip_tower:build_open_clip", ("open_clip", "timm"), weights=False)


class TransformersConfig(FromHub, _TowerConfig):
    """A vision model of transformers, or the vision half of a dual model such as CLIP."""

    type: Literal["transformers"] = "transformers"
    model: LocalPath = Field(min_length=1, description="a hub id or a local folder")

    def build(self, *, weights: bool = True, assets: Path | None = None) -> Encoder:
        _need("transformers", "transformers")
        from vlm_encoders.towers.transformers_build import build_transformers

        return build_transformers(
            **self._arguments(),
            weights=weights,
            revision=self.revision,
            trust_remote_code=self.runs_code(assets or self.model),
            assets=assets,
        )

    def weights_source(self) -> WeightsSource:
        return source_of(self.model, self.revision)

    def downloads(self) -> list[Download]:
        return [] if Path(self.model).exists() else [Download(self.model, "weights of the whole model")]

    def factory_call(self) -> FactoryCall:
        self.refuse_code_export()
        return self._factory_call(
            "transformers_build:build_transformers", model="saved with this model", weights=False
        )


class FusedConfig(EncoderConfig):
    """Several encoders on one image; their features are concatenated patch by patch."""

    type: Literal["fused"] = "fused"
    towers: list[Annotated[SerializeAsAny[EncoderConfig], component("encoder")]] = Field(
        min_length=2, max_length=8, description="encoders of any type; equal image sizes and equal grids"
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        """Counts nested towers, too."""
        if (count := sum(1 for _ in self.components())) > MAX_TOWERS:
            raise ValueError(f"{count} encoders inside one another; at most {MAX_TOWERS} are built")
        return self

    def label(self) -> str:
        return f"fused ({' + '.join(tower.label() for tower in self.towers)})"

    def weights_source(self) -> WeightsSource:
        return WeightsSource("its towers, which have all the weights")

    def for_folder(self) -> FusedConfig:
        return self.model_copy(update={"towers": [tower.for_folder() for tower in self.towers]})

    def build(self, *, weights: bool = True, assets: Path | None = None) -> Encoder:
        from vlm_encoders.towers.fused import build_fused

        return build_fused(self.towers, weights=weights, assets=assets)
