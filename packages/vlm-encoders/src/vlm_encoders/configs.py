"""What a spec says about an encoder; each config imports its library only when it builds."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, SerializeAsAny, model_validator

from vlm_core.config import Download, EncoderConfig, Recipe
from vlm_core.errors import UserError
from vlm_core.hub import FromHub
from vlm_core.paths import LocalPath
from vlm_core.validate import component

if TYPE_CHECKING:
    from vlm_core.interfaces import Encoder

Fit = Literal["resize", "pad", "crop"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Scalar = int | float | bool | str


def _need(module: str, extra: str) -> None:
    """Import a library, or say how to install it."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UserError(
            f"this encoder needs {module}, which is not installed; pip install 'vlm-encoders[{extra}]'"
        ) from None


class _TowerConfig(EncoderConfig):
    """What every encoder of this package understands."""

    model: LocalPath = Field(min_length=1)
    layer: int | None = Field(
        default=None,
        description="block whose output is taken, counted from 0 or, if negative, from the end; "
        "by default the penultimate block of a Transformer and the last feature map of a CNN",
    )
    image_size: PositiveInt | None = Field(
        default=None,
        le=8192,
        description="side of the square that images are brought to; the model's own by default",
    )
    fit: Fit = Field(
        default="resize",
        description="resize: squash to the square; pad: centre on a square of the mean colour; "
        "crop: keep the centre square",
    )
    interpolation: Interpolation | None = Field(
        default=None, description="Pillow's filter for resizing; by default the one that the weights name"
    )

    def label(self) -> str:
        return f"{self.type_name()} {self.model}"

    def _recipe(self, function: str, needs: tuple[str, ...] = (), **more: Any) -> Recipe:
        common = self.model_dump(include={"model", "layer", "image_size", "fit", "interpolation"})
        return Recipe(f"vlm_encoders.{function}", common | more, needs)


class TimmConfig(_TowerConfig):
    """Any timm image model, Transformer or CNN."""

    type: Literal["timm"] = "timm"
    model: LocalPath = Field(
        min_length=1, description="a name timm knows, hf-hub:<repository> or local-dir:<folder>"
    )
    pretrained: bool = Field(
        default=False,
        description="take the weights that timm publishes, or those of the repository or folder",
    )
    weights: LocalPath | None = Field(
        default=None,
        description="a .safetensors or .pth file or a folder with one; python:<package>/<path> is a file in an "
        "installed package",
    )
    match: Literal["names", "order"] = Field(
        default="names", description="pair the file's tensors with the model's by name or by position"
    )
    model_args: dict[str, Scalar | list[Scalar]] = Field(
        default_factory=dict, description="further arguments of the tower, as timm.create_model takes them"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.pretrained and self.weights is not None:
            raise ValueError("pretrained and weights are two sources of the same weights; keep one")
        return self

    def build(self, *, weights: bool = True, assets: Path | None = None) -> Encoder:
        _need("timm", "timm")
        from vlm_encoders.timm_tower import build_timm

        return build_timm(
            model=self.model,
            model_args=self.model_args,
            pretrained=self.pretrained and weights,
            weights=self.weights if weights else None,
            match=self.match,
            layer=self.layer,
            image_size=self.image_size,
            fit=self.fit,
            interpolation=self.interpolation,
            assets=assets,
        )

    def downloads(self) -> list[Download]:
        if not self.pretrained:
            return []
        _need("timm", "timm")
        from vlm_encoders.downloads import of_timm

        return of_timm(self.model)

    def recipe(self) -> Recipe:
        return self._recipe("timm_tower:build_timm", ("timm",), model_args=self.model_args)


class OpenClipConfig(_TowerConfig):
    """The image tower of an open_clip model; the text tower is never built."""

    type: Literal["open-clip"] = "open-clip"
    model: LocalPath = Field(
        min_length=1, description="a name open_clip knows, hf-hub:<repository> or local-dir:<folder>"
    )
    pretrained: LocalPath | None = Field(
        default=None,
        description="a tag of open_clip, or a local file or folder of an open_clip model; "
        "hf-hub:… and local-dir:… bring their own",
    )

    def build(self, *, weights: bool = True, assets: Path | None = None) -> Encoder:
        _need("open_clip", "open-clip")
        from vlm_encoders.open_clip_tower import build_open_clip

        return build_open_clip(
            model=self.model,
            pretrained=self.pretrained,
            weights=weights,
            layer=self.layer,
            image_size=self.image_size,
            fit=self.fit,
            interpolation=self.interpolation,
            assets=assets,
        )

    def downloads(self) -> list[Download]:
        _need("open_clip", "open-clip")
        from vlm_encoders.downloads import of_open_clip

        return of_open_clip(self.model, self.pretrained)

    def recipe(self) -> Recipe:
        return self._recipe("open_clip_tower:build_open_clip", ("open_clip", "timm"), weights=False)


class TransformersConfig(FromHub, _TowerConfig):
    """A vision model of transformers, alone or as one half of a dual model such as CLIP."""

    type: Literal["transformers"] = "transformers"
    model: LocalPath = Field(min_length=1, description="a hub id or a local folder")
    mean: list[float] | None = Field(
        default=None,
        min_length=3,
        max_length=3,
        description="of R, G, B; by default preprocessor_config.json's",
    )
    std: list[float] | None = Field(
        default=None,
        min_length=3,
        max_length=3,
        description="of R, G, B; by default preprocessor_config.json's",
    )

    def build(self, *, weights: bool = True, assets: Path | None = None) -> Encoder:
        _need("transformers", "transformers")
        from vlm_encoders.transformers_build import build_transformers

        return build_transformers(
            model=self.model,
            weights=weights,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            mean=self.mean,
            std=self.std,
            layer=self.layer,
            image_size=self.image_size,
            fit=self.fit,
            interpolation=self.interpolation,
            assets=assets,
        )

    def downloads(self) -> list[Download]:
        return [] if Path(self.model).exists() else [Download(self.model, "weights of the whole model")]

    def recipe(self) -> Recipe:
        self.refuse_to_travel()
        return self._recipe(
            "transformers_build:build_transformers", model="saved with this model", weights=False
        )


class FusedConfig(EncoderConfig):
    """Several encoders that look at one picture; their features are joined patch by patch."""

    type: Literal["fused"] = "fused"
    towers: list[Annotated[SerializeAsAny[EncoderConfig], component("encoder")]] = Field(
        min_length=2, description="encoders of any type; equal image sizes and equal grids"
    )

    def label(self) -> str:
        return f"fused ({' + '.join(tower.label() for tower in self.towers)})"

    def for_folder(self) -> FusedConfig:
        return self.model_copy(update={"towers": [tower.for_folder() for tower in self.towers]})

    def build(self, *, weights: bool = True, assets: Path | None = None) -> Encoder:
        from vlm_encoders.fused import build_fused

        return build_fused(self.towers, weights=weights, assets=assets)
