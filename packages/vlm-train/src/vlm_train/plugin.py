"""Plugin hooks of this package: the `train` section of a spec, and its dataset formats.

A hook imports the configs when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm_core.plugins import DatasetConfig, hookimpl

if TYPE_CHECKING:
    from pydantic import BaseModel


@hookimpl
def vlm_datasets() -> list[type[DatasetConfig]]:
    from vlm_train.data.llava import LlavaConfig
    from vlm_train.data.parquet import ParquetConfig
    from vlm_train.data.split import SplitConfig
    from vlm_train.data.webdataset import WebDatasetConfig

    return [LlavaConfig, ParquetConfig, SplitConfig, WebDatasetConfig]


@hookimpl
def vlm_sections() -> dict[str, type[BaseModel]]:
    from vlm_train.config.train import TrainConfig

    return {"train": TrainConfig}
