"""The same rows written as JSON for LLaVA, as parquet columns and as samples of a webdataset shard."""

import json

from shards import answer, data_url, parquet, tar, user

from vlm_train.data.llava import LlavaConfig
from vlm_train.data.parquet import ParquetConfig
from vlm_train.data.webdataset import WebDatasetConfig

RED, BLUE = (255, 0, 0), (0, 0, 255)
FILES = "red.png", "blue.png", "clip.mp4", "other.webm"
SHOWN = "<image>\nwhat?"
URL = {"type": "image_url", "image_url": {"url": data_url("red"), "detail": "low"}}
NAMED = {"type": "image", "image": "red.png"}


def messages(*content, **more):
    return {"messages": [user(*content), answer("a cat")], **more}


def llava(folder, *rows, suffix="json", **keys):
    path = folder / f"rows.{suffix}"
    path.write_text(json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows)))
    return LlavaConfig(path=str(path), **keys).rows()


def columns(folder, *rows, **keys):
    return ParquetConfig(path=str(parquet(folder / "rows.parquet", list(rows))), **keys).rows()


def shard(folder, *rows, **keys):
    """Images and videos that a row names are members beside it."""
    members = {}
    for i, row in enumerate(rows):
        text = json.dumps(row)
        names = sorted(name for name in FILES if name in text)
        members |= {f"{i}.{name}": (folder / name).read_bytes() for name in names}
        for name in names:
            text = text.replace(f'"{name}"', f'"{i}.{name}"')
        members[f"{i}.json"] = text
    return WebDatasetConfig(path=str(tar(folder / "rows.tar", members)), **keys).rows()


WRITERS = [llava, columns, shard]
