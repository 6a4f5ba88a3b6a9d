"""JSON files of rows as a dataset of a spec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from vlm_core.io.paths import LocalPath
from vlm_core.plugins.config import DatasetConfig
from vlm_train.data.parquet import Name

if TYPE_CHECKING:
    from vlm_train.data.json_files.json_rows import LlavaRows


class LlavaConfig(DatasetConfig):
    """A JSON list, or JSON lines, of rows; image names are relative to `images`."""

    type: Literal["llava"] = "llava"
    path: LocalPath = Field(min_length=1, description="the .json or .jsonl file")
    images: LocalPath = Field(default="", description="folder of the images; default: the file's own folder")
    symlinks: bool = Field(default=False, description="whether symlinks may lead out of that folder")
    any_extension: bool = Field(
        default=False,
        description="whether a missing image may be the one file with its name and another extension",
    )
    ignore: list[Name] = Field(default=[], description="keys with content that are deliberately not read")

    def label(self) -> str:
        return self.path

    def rows(self) -> LlavaRows:
        from vlm_core.io.image_folder import ImageFolder
        from vlm_train.data.json_files.json_rows import LlavaRows

        file = Path(self.path)
        folder = ImageFolder(self.images or str(file.parent), self.symlinks, any_extension=self.any_extension)
        return LlavaRows(file, folder, self.ignore)
