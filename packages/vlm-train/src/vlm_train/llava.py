"""LLaVA's JSON: rows of a conversation and its images. Every fault names file, row and what was expected."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from vlm_core.config import DatasetConfig
from vlm_core.errors import UserError

PLACEHOLDER = "<image>"
log = logging.getLogger(__name__)


class LlavaConfig(DatasetConfig):
    """A `.json` list or `.jsonl` file of LLaVA rows; image names are relative to `images`."""

    type: Literal["llava"] = "llava"
    path: str = Field(min_length=1)
    images: str = Field(default="", description="folder of the images; default: the file's own folder")

    def label(self) -> str:
        return self.path

    def rows(self) -> list[dict[str, Any]]:
        file = Path(self.path)
        root = Path(self.images) if self.images else file.parent
        rows = [
            _checked(row, f"{file}: row {i}", root) for i, row in enumerate(_human_first(file, _read(file)))
        ]
        if not rows:
            raise UserError(f"{file}: holds no rows")
        _require_images(file, rows)
        return rows


def _read(file: Path) -> Iterator[Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{file}: no such data file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if file.suffix == ".jsonl":
        lines = [(f"{file}, line {n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        yield from (_json(line, where) for where, line in lines)
        return
    rows = _json(text, str(file))
    if not isinstance(rows, list):
        raise UserError(
            f"{file}: expected a list of rows, got {type(rows).__name__}; name lines of JSON .jsonl"
        )
    yield from rows


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON: {error}") from None


def _human_first(file: Path, rows: Iterator[Any]) -> Iterator[Any]:
    """Conversations that gpt opens lose that turn, as in LLaVA's own reader; their number is reported."""
    opened = 0
    for row in rows:
        turns = row.get("conversations") if isinstance(row, dict) else None
        if (
            isinstance(turns, list)
            and len(turns) > 2
            and isinstance(turns[0], dict)
            and turns[0].get("from") == "gpt"
        ):
            row, opened = {**row, "conversations": turns[1:]}, opened + 1
        yield row
    if opened:
        log.warning("%s: in %d rows gpt speaks first; that turn is left out", file, opened)


def _checked(row: Any, where: str, root: Path) -> dict[str, Any]:
    """The row with absolute image paths; raises `UserError` for anything that is not LLaVA's schema."""
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a mapping, got {row!r:.60}")
    turns, images = row.get("conversations"), row.get("image")
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{where}: conversations must be a non-empty list, got {turns!r:.60}")
    for i, turn in enumerate(turns):
        speaker = ("human", "gpt")[i % 2]
        if (
            not isinstance(turn, dict)
            or turn.get("from") != speaker
            or not isinstance(turn.get("value"), str)
        ):
            raise UserError(f"{where}, turn {i}: expected {{from: {speaker}, value: text}}, got {turn!r:.80}")
    if len(turns) % 2:
        raise UserError(f"{where}: the last turn must be gpt's answer")
    names = [] if images is None else images if isinstance(images, list) else [images]
    slots = sum(turn["value"].count(PLACEHOLDER) for turn in turns[::2])
    if slots != len(names):
        raise UserError(f"{where}: {slots} {PLACEHOLDER} in the human turns, but {len(names)} images")
    if not isinstance(row.get("category"), str | None):
        raise UserError(f"{where}: category must be text, got {row['category']!r:.60}")
    paths = [_image_path(root, name, where) for name in names]
    return {
        "id": str(row.get("id", where)),
        "image": paths,
        "conversations": turns,
        "category": row.get("category"),
    }


def _image_path(root: Path, name: Any, where: str) -> str:
    """An image stays inside its folder: absolute names, `..` and NUL are refused before any file is touched."""
    parts = Path(name).parts if isinstance(name, str) and name and "\0" not in name else ("..",)
    if ".." in parts or Path(*parts).is_absolute() or "://" in name:
        raise UserError(f"{where}: image {name!r:.80} must be a name inside {root}")
    return str(root / name)


def _require_images(file: Path, rows: list[dict[str, Any]]) -> None:
    missing = [(row["id"], path) for row in rows for path in row["image"] if not os.path.isfile(path)]
    if missing:
        some = "; ".join(f"{path} (row {name})" for name, path in missing[:3])
        raise UserError(f"{file}: {len(missing)} images are missing: {some}; set images: to their folder")
