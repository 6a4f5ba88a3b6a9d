"""Every dataset type that the pipeline brings keeps the contract."""

import base64
import json
from typing import ClassVar

from shards import answer, data_url, held, parquet, png, tar, text, turns, user
from videos import video

from vlm_core.testing import DatasetSuite
from vlm_train.data.llava import LlavaConfig
from vlm_train.data.parquet import ParquetConfig
from vlm_train.data.split import SplitConfig
from vlm_train.data.webdataset import WebDatasetConfig

CLIP = video(frames=3)
CLIP_URL = {"url": "data:video/mp4;base64," + base64.b64encode(CLIP).decode()}
INLINE = {"type": "image_url", "image_url": {"url": data_url("blue")}}
SHAPES = [
    {
        "id": "parts",
        "messages": [
            {"role": "system", "content": [text("be brief")]},
            user(INLINE, text("what?")),
            answer("blue"),
        ],
    },
    {
        "id": "pairs",
        "query": "b?",
        "response": "c",
        "history": [["a?", "b"]],
        "system": "be brief",
        "images": [],
    },
    {"id": "alpaca", "instruction": "say", "input": "a", "output": "b", "source": "somewhere"},
    {
        "id": "video",
        "messages": [user({"type": "video_url", "video_url": CLIP_URL}, text("what?")), answer("a cat")],
    },
    {"id": "sound", "messages": [user({"type": "audio", "audio": "a.mp3"}, text("what?")), answer("a cat")]},
]
"""Rows of several shapes, the last of which can't be read."""
MEMBERS = {
    "0.json": {"conversations": turns("<image>\nwhat?", "red"), "category": "one"},
    "0.png": png("red"),
    "1.json": {"conversations": turns("hi", "yo", "so", "no")},
    "2.0.png": png("red"),
    "2.1.png": png("blue"),
    "2.json": {"conversations": turns("<image> <image>", "two")},
    "3.png": png("teal"),
    "3.txt": b"\xef\xbb\xbfa caption\r\n",
    "5.mp4": CLIP,
    "5.json": {"conversations": turns("<video>\nwhat?", "a square")},
    **{f"4.{i}.json": row for i, row in enumerate(SHAPES)},
}


class TestLlava(DatasetSuite):
    bad_rows = 1

    @classmethod
    def make_config(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("llava")
        (folder / "red.png").write_bytes(png("red"))
        found = [
            {"id": "a", "image": "red.png", "conversations": turns("<image>\nwhat?", "red")},
            {"id": "b", "conversations": turns("hi", "yo", "so", "no")},
        ]
        (folder / "rows.json").write_text(json.dumps([*found, *SHAPES]), encoding="utf-8-sig")
        return LlavaConfig(path=str(folder / "rows.json"))


class TestParquetOfMessages(DatasetSuite):
    bad_rows = 1

    @classmethod
    def make_config(cls, tmp_path_factory):
        records = [row for row in SHAPES if "messages" in row]
        return ParquetConfig(path=str(parquet(tmp_path_factory.mktemp("parquet") / "a.parquet", records)))


class TestParquet(DatasetSuite):
    records: ClassVar = [
        {"images": [held("red")], "conversations": turns("<image>\nwhat?", "red"), "video": None},
        {"images": [], "conversations": turns("hi", "yo", "so", "no")},
        {"images": [held("red"), held("blue")], "conversations": turns("<image> <image>", "two")},
        {"images": [], "conversations": turns("<video>", "a"), "video": {"bytes": CLIP, "path": "a.mp4"}},
    ]

    @classmethod
    def make_config(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("parquet")
        parquet(folder / "a.parquet", cls.records, group=2)
        parquet(folder / "b.parquet", cls.records, group=2)
        return ParquetConfig(path=str(folder))


class TestWebDataset(DatasetSuite):
    bad_rows = 2

    @classmethod
    def make_config(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("tars")
        tar(folder / "a.tar", MEMBERS)
        again = {f"b{name}": content for name, content in MEMBERS.items()}
        again |= {f"b4.{i}.json": {**row, "id": f"b{row['id']}"} for i, row in enumerate(SHAPES)}
        tar(folder / "b.tar", again)
        return WebDatasetConfig(path=str(folder))


class TestSplit(DatasetSuite):
    bad_rows = 1

    @classmethod
    def make_config(cls, tmp_path_factory):
        return SplitConfig(dataset=TestLlava.make_config(tmp_path_factory), part="train", held_out=0.2)
