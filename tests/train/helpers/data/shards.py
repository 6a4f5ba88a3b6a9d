"""Makes small parquet files and tars of the kinds that datasets come in."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COLOURS = ["red", "green", "blue", "black", "white", "teal"]


def png(colour: Any, size: tuple[int, int] = (20, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def held(colour: Any, path: str | None = None) -> dict[str, Any]:
    """An image as the hub keeps it."""
    return {"bytes": png(colour), "path": path}


def parquet(path: Path, records: list[dict[str, Any]], group: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records), path, row_group_size=group)
    return path


def tar(path: Path, members: dict[str, Any]) -> Path:
    """Members by name: bytes, text, or data for JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            data = (
                content
                if isinstance(content, bytes)
                else str.encode(content if isinstance(content, str) else json.dumps(content))
            )
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def data_url(colour: Any) -> str:
    return "data:image/png;base64," + base64.b64encode(png(colour)).decode()


def text(words: str) -> dict[str, str]:
    """A part of a message."""
    return {"type": "text", "text": words}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def answer(words: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [text(words)]}


def turns(*values: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": v} for i, v in enumerate(values)]


def said(row: dict[str, Any]) -> list[str]:
    return [turn["value"] for turn in row["conversations"]]


def colour(row: dict[str, Any], k: int = 0) -> Any:
    from vlm_core.io.images import load_image

    return load_image(row["image"][k]).getpixel((0, 0))
