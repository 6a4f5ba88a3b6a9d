"""Tar shards in the webdataset layout as a dataset of a spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from vlm_core.errors import UserError
from vlm_core.plugins.config import DatasetConfig
from vlm_train.data.conversation.columns import Column
from vlm_train.data.parquet import Name, Paths

if TYPE_CHECKING:
    from vlm_train.data.tar_files.tar_rows import TarRows


class WebDatasetConfig(DatasetConfig):
    """Tar files of samples: `key.jpg` with `key.json` or `key.txt`."""

    type: Literal["webdataset"] = "webdataset"
    path: Paths = Field(description="a .tar file, a folder of them, a pattern or a list")
    columns: dict[Column, Name] = Field(
        default={}, description="the names of the keys id, question, … in .json"
    )
    ignore: list[Name] = Field(
        default=[], description="keys of .json with content that are deliberately not read"
    )

    def label(self) -> str:
        return self.path if isinstance(self.path, str) else f"{self.path[0]}, … ({len(self.path)} files)"

    def rows(self) -> TarRows:
        from vlm_train.data.storage import expand, is_remote
        from vlm_train.data.tar_files.tar_rows import TarRows

        for name in [self.path] if isinstance(self.path, str) else self.path:
            if is_remote(name) or name.startswith("pipe:"):
                raise UserError(
                    f"{name}: shards must be local files, since samples are read in random order: download"
                    " them, or use type: parquet, which reads from URLs"
                )
        return TarRows(expand(self.path, ".tar"), dict(self.columns), self.ignore)
