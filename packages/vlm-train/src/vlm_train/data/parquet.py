"""Parquet files, the format of datasets on the Hugging Face hub, as a dataset of a spec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from vlm_core.errors import UserError
from vlm_core.io.paths import LocalPath
from vlm_core.plugins.config import DatasetConfig
from vlm_train.data.conversation.columns import Column

if TYPE_CHECKING:
    from vlm_train.data.parquet_files.parquet_rows import ParquetRows

Name = Annotated[str, Field(min_length=1)]
File = Annotated[LocalPath, Field(min_length=1)]
Paths = File | Annotated[list[File], Field(min_length=1)]


class ParquetConfig(DatasetConfig):
    """Parquet files, local or at a URL (`hf://`, `https://`, `s3://`): a file, a folder, a pattern or a list."""

    type: Literal["parquet"] = "parquet"
    path: Paths = Field(description="a file, a folder, a pattern or a list of them, local or at URLs")
    columns: dict[Column, Name] = Field(
        default={}, description="the data's names of the columns id, image, question, …"
    )
    images: LocalPath = Field(
        default="", description="folder of images given by file name; default: the file's own folder"
    )
    symlinks: bool = Field(default=False, description="whether symlinks may lead out of that folder")
    ignore: list[Name] = Field(default=[], description="columns with content that are deliberately not read")

    def label(self) -> str:
        return self.path if isinstance(self.path, str) else f"{self.path[0]}, … ({len(self.path)} files)"

    def rows(self) -> ParquetRows:
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise UserError(f"type: parquet needs pip install vlm-train[parquet] ({error})") from None
        from vlm_core.io.image_folder import ImageFolder
        from vlm_train.data.parquet_files.parquet_rows import ParquetRows
        from vlm_train.data.storage import expand, is_remote

        files = expand(self.path, ".parquet")
        parent = "" if is_remote(files[0]) else str(Path(files[0]).parent)
        folder = ImageFolder(self.images or parent, self.symlinks)
        return ParquetRows(files, dict(self.columns), folder, self.ignore)
