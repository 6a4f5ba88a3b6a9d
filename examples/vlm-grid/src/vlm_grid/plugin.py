"""What this package offers to vlm-core: the dataset `grid` and the encoder `patch-embedding`."""

from __future__ import annotations

import random
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import Field, PositiveInt, model_validator

from vlm_core.io.paths import LocalPath
from vlm_core.plugins import DatasetConfig, EncoderConfig, UserError, WeightsSource, hookimpl, random_values
from vlm_grid.scenes import Category, Scene, scenes

if TYPE_CHECKING:
    from vlm_core.interfaces import Encoder


class GridConfig(DatasetConfig):
    """Pictures of eight squares and a ring, and questions about their colours.

    Of all 15120 scenes, in an order of the seed's own, every tenth is for the test: no picture is in both splits.
    `questions` of each picture are asked, the categories taking turns, `turns` in one conversation. Pictures are
    drawn into `folder` when they are first needed; with `images: false` none is.
    """

    type: Literal["grid"] = "grid"
    split: Literal["train", "test"] = Field(description="no picture is in both")
    pictures: PositiveInt = Field(description="how many; 13608 can be trained with, 1512 tested")
    questions: PositiveInt = Field(default=3, description="questions of each picture")
    turns: PositiveInt = Field(default=1, description="questions in one conversation")
    categories: list[Category] | None = Field(default=None, description="which questions; all by default")
    images: bool = Field(default=True, description="whether rows have their picture")
    folder: LocalPath = Field(default="runs/grid-pictures", description="where pictures are drawn into")
    seed: int = Field(default=0, description="of the order of the scenes")

    def rows(self) -> list[dict[str, Any]]:
        mine = [scene for i, scene in enumerate(scenes(self.seed)) if (i % 10 == 0) == (self.split == "test")]
        if self.pictures > len(mine):
            raise UserError(f"grid: {self.split} has {len(mine)} pictures, but {self.pictures} are asked for")
        return [row for scene in mine[: self.pictures] for row in self._conversations(scene)]

    def _conversations(self, scene: Scene) -> list[dict[str, Any]]:
        asked = self._asked(scene)
        image = [self._picture(scene)] if self.images else []
        return [
            self._row(scene, start, asked[start : start + self.turns], image)
            for start in range(0, len(asked), self.turns)
        ]

    def _asked(self, scene: Scene) -> list[tuple[Category, str, str]]:
        """`questions` of the scene's questions in an order of its own, the categories taking turns."""
        chance = random.Random(scene.name)
        wanted = self.categories or list(get_args(Category))
        groups = [[q for q in scene.questions() if q[0] == category] for category in wanted]
        for group in groups:
            chance.shuffle(group)
        chance.shuffle(groups)
        in_turn = [q for q in chain.from_iterable(zip_longest(*groups)) if q]
        return in_turn[: self.questions]

    def _picture(self, scene: Scene) -> str:
        from vlm_grid.pictures import write

        try:
            return str(write(scene, Path(self.folder)))
        except OSError as error:
            raise UserError(f"{self.folder}: cannot hold the pictures: {error.strerror or error}") from None

    def _row(
        self, scene: Scene, start: int, asked: list[tuple[Category, str, str]], image: list[str]
    ) -> dict[str, Any]:
        turns = [
            {"from": speaker, "value": value}
            for _, question, answer in asked
            for speaker, value in (("human", question), ("gpt", answer))
        ]
        if image:
            turns[0]["value"] = f"<image>\n{turns[0]['value']}"
        name = f"{self.split}-{scene.name}-{start}"
        return {"id": name, "image": image, "conversations": turns, "category": asked[-1][0]}


class PatchEmbeddingConfig(EncoderConfig):
    """A ViT's first layer alone: no position, no attention; what a patch gives depends on that patch only."""

    type: Literal["patch-embedding"] = "patch-embedding"
    dim: PositiveInt = Field(default=64, description="width of a patch's features")
    patch: PositiveInt = Field(default=16, description="pixels a side of a patch")
    image_size: PositiveInt = Field(default=48, description="pixels a side of an image")

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
