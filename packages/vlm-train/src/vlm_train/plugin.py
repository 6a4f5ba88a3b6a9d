"""What this package offers to vlm-core: the `train` section of a spec, and data formats."""

from __future__ import annotations

from pydantic import BaseModel

from vlm_core.config import DatasetConfig
from vlm_core.hooks import hookimpl
from vlm_train.config import TrainConfig
from vlm_train.llava import LlavaConfig
from vlm_train.parquet import ParquetConfig
from vlm_train.webdataset import WebDatasetConfig


@hookimpl
def vlm_datasets() -> list[type[DatasetConfig]]:
    return [LlavaConfig, ParquetConfig, WebDatasetConfig]


@hookimpl
def vlm_sections() -> dict[str, type[BaseModel]]:
    return {"train": TrainConfig}
