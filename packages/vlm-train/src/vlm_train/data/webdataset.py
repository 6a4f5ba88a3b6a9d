"""webdataset's shards as a dataset of a spec."""

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
    """Tar files of samples: `key.jpg` and `key.json` or `key.txt`, next to each other."""

    type: Literal["webdataset"] = "webdataset"
    path: Paths = Field(description="a .tar file, a folder of them, a pattern or a list")
    columns: dict[Column, Name] = Field(default={}, description="what .json calls id, question, …")
    ignore: list[Name] = Field(
        default=[], description="keys of .json that hold content but are left out on purpose"
    )

    def label(self) -> str:
        return self.path if isinstance(self.path, str) else f"{self.path[0]}, … ({len(self.path)} files)"

    def rows(self) -> TarRows:
        from vlm_train.data.storage import expand, is_remote
        from vlm_train.data.tar_files.tar_rows import TarRows

        for name in [self.path] if isinstance(self.path, str) else self.path:
            if is_remote(name) or name.startswith("pipe:"):
                raise UserError(
                    f"{name}: shards must be local files, for their samples are read in any order; copy them"
                    " here, or use type: parquet, which reads from URLs"
                )
        return TarRows(expand(self.path, ".tar"), dict(self.columns), self.ignore)
