"""The plugin module: the dataset `fashion-grid`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, PositiveInt

from vlm_core.io.paths import LocalPath
from vlm_core.plugins import DatasetConfig, UserError, hookimpl
from vlm_fashion.scenes import CLASSES, Category, Scene, scene
from vlm_grid.questions import alternating, conversations


class FashionGridConfig(DatasetConfig):
    """Fashion-MNIST items in 3 × 3 cells, one of them on white, and questions about it and its neighbours.

    The items of `train` and `test` are those of the official splits, so no item is in both. Each image has `questions`
    questions, alternating between the categories, with `turns` of them in one conversation. Images are drawn into
    `folder` at their first use; with `images: false` none is drawn, and no file is read.
    """

    type: Literal["fashion-grid"] = "fashion-grid"
    split: Literal["train", "test"] = Field(description="official split of the items")
    pictures: PositiveInt = Field(le=1_000_000, description="number of images")
    questions: PositiveInt = Field(default=3, description="at most so many questions per image")
    turns: PositiveInt = Field(default=1, description="questions per conversation")
    images: bool = Field(default=True, description="false: rows without images")
    path: LocalPath = Field(
        default="/usr/share/datasets/fashion-mnist",
        description="folder of Fashion-MNIST's four files; default: where Debian's dataset-fashion-mnist has them",
    )
    folder: LocalPath = Field(default="runs/fashion-pictures", description="folder of the drawn images")
    seed: int = Field(default=0, description="seed of the scenes")

    def rows(self) -> list[dict[str, Any]]:
        scenes = [scene(f"{self.split}-{self.seed}-{i}") for i in range(self.pictures)]
        pictures = self._draw(scenes) if self.images else [None] * self.pictures
        pairs = zip(scenes, pictures, strict=True)
        return [row for one, picture in pairs for row in self._conversations(one, picture)]

    def _draw(self, scenes: list[Scene]) -> list[str]:
        """The scenes' files, drawn where they don't exist."""
        from vlm_fashion.idx_files import images_by_class
        from vlm_fashion.pictures import write

        items = images_by_class(Path(self.path), self.split, CLASSES)
        try:
            return [str(write(one, items, Path(self.folder))) for one in scenes]
        except OSError as error:
            raise UserError(f"{self.folder}: cannot write the images: {error.strerror or error}") from None

    def _conversations(self, one: Scene, picture: str | None) -> list[dict[str, Any]]:
        seed = f"questions {one.name}"  # other numbers than those that placed the items
        pairs = alternating(one.questions(), get_args(Category), seed)[: self.questions]
        return conversations(one.name, pairs, self.turns, [picture] if picture else [])


@hookimpl
def vlm_datasets() -> list[type[DatasetConfig]]:
    return [FashionGridConfig]
