"""The plugin module: the dataset `grid` and the encoder `patch-embedding`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import Field, PositiveInt, model_validator

from vlm_core.io.paths import LocalPath
from vlm_core.plugins import DatasetConfig, EncoderConfig, UserError, WeightsSource, hookimpl, random_values
from vlm_grid.questions import alternating, conversations
from vlm_grid.scenes import Category, Scene, scenes

if TYPE_CHECKING:
    from vlm_core.interfaces import Encoder


class GridConfig(DatasetConfig):
    """Images of eight squares and a ring, and questions about their colours.

    In the seed's order of all 15120 scenes, every tenth is a test scene, so no image is in both splits. Each image
    has `questions` questions, alternating between the categories, with `turns` of them in one conversation. Images
    are drawn into `folder` at their first use; with `images: false` none is drawn.
    """

    type: Literal["grid"] = "grid"
    split: Literal["train", "test"] = Field(description="train or test; no image is in both")
    pictures: PositiveInt = Field(description="number of images: at most 13608 in train, 1512 in test")
    questions: PositiveInt = Field(default=3, description="questions per image")
    turns: PositiveInt = Field(default=1, description="questions per conversation")
    categories: list[Category] | None = Field(
        default=None, description="categories of questions; default: all"
    )
    images: bool = Field(default=True, description="false: rows without images")
    folder: LocalPath = Field(default="runs/grid-pictures", description="folder of the drawn images")
    seed: int = Field(default=0, description="seed of the order of the scenes")

    def rows(self) -> list[dict[str, Any]]:
        in_order = enumerate(scenes(self.seed))
        split = [scene for i, scene in in_order if (i % 10 == 0) == (self.split == "test")]
        if self.pictures > len(split):
            raise UserError(f"grid: {self.split} has {len(split)} images, but pictures is {self.pictures}")
        return [row for scene in split[: self.pictures] for row in self._conversations(scene)]

    def _conversations(self, scene: Scene) -> list[dict[str, Any]]:
        categories = self.categories or get_args(Category)
        pairs = alternating(scene.questions(), categories, scene.name)[: self.questions]
        image = [self._picture(scene)] if self.images else []
        return conversations(f"{self.split}-{scene.name}", pairs, self.turns, image)

    def _picture(self, scene: Scene) -> str:
        from vlm_grid.pictures import write

        try:
            return str(write(scene, Path(self.folder)))
        except OSError as error:
            raise UserError(f"{self.folder}: cannot write the images: {error.strerror or error}") from None


class PatchEmbeddingConfig(EncoderConfig):
    """The patch embedding of a ViT without positions and attention: each output depends on one patch only."""

    type: Literal["patch-embedding"] = "patch-embedding"
    dim: PositiveInt = Field(default=64, description="width of a patch's features")
    patch: PositiveInt = Field(default=16, description="side of a patch, in pixels")
    image_size: PositiveInt = Field(default=48, description="side of an image, in pixels")

    @model_validator(mode="after")
    def _whole_patches(self) -> PatchEmbeddingConfig:
        if self.image_size % self.patch:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch {self.patch}")
        return self

    def label(self) -> str:
        return f"patch-embedding/{self.patch}"

    def weights_source(self) -> WeightsSource:
        return random_values()

    def build(self, *, weights: bool = True, assets: Path | None = None) -> Encoder:
        from vlm_grid.encoder import PatchEmbedding

        return PatchEmbedding(self.dim, self.patch, self.image_size)


@hookimpl
def vlm_datasets() -> list[type[DatasetConfig]]:
    return [GridConfig]


@hookimpl
def vlm_encoders() -> list[type[EncoderConfig]]:
    return [PatchEmbeddingConfig]
