"""Every dataset type that the pipeline brings keeps the contract."""

import json
import sys
from pathlib import Path
from typing import ClassVar

from vlm_core.testing import DatasetSuite
from vlm_train.llava import LlavaConfig
from vlm_train.parquet import ParquetConfig
from vlm_train.webdataset import WebDatasetConfig

sys.path.append(str(Path(__file__).parents[1] / "train"))
from shards import held, parquet, png, tar, turns

MEMBERS = {
    "0.json": {"conversations": turns("<image>\nwhat?", "red"), "category": "one"}, "0.png": png("red"),
    "1.json": {"conversations": turns("hi", "yo", "so", "no")},
    "2.0.png": png("red"), "2.1.png": png("blue"), "2.json": {"conversations": turns("<image> <image>", "two")},
    "3.png": png("teal"), "3.txt": "a caption",
}  # fmt: skip


class TestLlava(DatasetSuite):
    @classmethod
    def make_config(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("llava")
        (folder / "red.png").write_bytes(png("red"))
        found = [{"id": "a", "image": "red.png", "conversations": turns("<image>\nwhat?", "red")},
                 {"id": "b", "conversations": turns("hi", "yo", "so", "no")}]  # fmt: skip
        (folder / "rows.json").write_text(json.dumps(found))
        return LlavaConfig(path=str(folder / "rows.json"))


class TestParquet(DatasetSuite):
    records: ClassVar = [
        {"images": [held("red")], "conversations": turns("<image>\nwhat?", "red")},
        {"images": [], "conversations": turns("hi", "yo", "so", "no")},
        {"images": [held("red"), held("blue")], "conversations": turns("<image> <image>", "two")},
    ]

    @classmethod
    def make_config(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("parquet")
        parquet(folder / "a.parquet", cls.records, group=2)
        parquet(folder / "b.parquet", cls.records, group=2)
        return ParquetConfig(path=str(folder))


class TestWebDataset(DatasetSuite):
    @classmethod
    def make_config(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("tars")
        tar(folder / "a.tar", MEMBERS)
        tar(folder / "b.tar", {f"b{name}": content for name, content in MEMBERS.items()})
        return WebDatasetConfig(path=str(folder))
