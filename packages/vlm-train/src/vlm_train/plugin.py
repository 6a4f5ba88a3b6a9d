"""Plugin hooks of this package: the `train` section of a spec, and its dataset formats."""

from __future__ import annotations

from pydantic import BaseModel

from vlm_core.plugins import DatasetConfig, hookimpl
from vlm_train.config.train import TrainConfig
from vlm_train.data.llava import LlavaConfig
from vlm_train.data.parquet import ParquetConfig
from vlm_train.data.split import SplitConfig
from vlm_train.data.webdataset import WebDatasetConfig


@hookimpl
def vlm_datasets() -> list[type[DatasetConfig]]:
    return [LlavaConfig, ParquetConfig, SplitConfig, WebDatasetConfig]


@hookimpl
def vlm_sections() -> dict[str, type[BaseModel]]:
    return {"train": TrainConfig}
